"""The base density of DLSA's flow: a mixture of unit Gaussians with equal weights around fixed random centers.

log p(x, k) below is conditional on k: the weight 1/K enters only the mixture.
"""

import math

import torch
from torch import Tensor


def component_log_densities(u: Tensor, log_det: Tensor, centers: Tensor) -> Tensor:
    """log p(x, k), (..., B, K), of latents u (..., B, d) with log-determinants (..., B) and centers (K, d).

    ||u - mu||^2 is expanded, so that the largest array is (..., B, K) and not (..., B, K, d).
    """
    width = u.shape[-1]
    products = u @ centers.T - 0.5 * centers.square().sum(dim=-1)
    rows = log_det - 0.5 * u.square().sum(dim=-1) - 0.5 * width * math.log(2 * math.pi)
    return products + rows[..., None]


def mixture_log_density(components: Tensor) -> Tensor:
    """log p(x), (..., B), of log p(x, k) (..., B, K)."""
    return torch.logsumexp(components, dim=-1) - math.log(components.shape[-1])
