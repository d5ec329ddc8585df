"""A flow filter: standardization, flow and fixed centers; log-likelihood, cluster and latent of rows."""

import numpy as np
import torch
from torch import Tensor, nn

from longtail.core.seeds import derive_seed, generator
from longtail.methods.dlsa.flow import Flow
from longtail.methods.dlsa.mixture import component_log_densities, mixture_log_density
from longtail.methods.dlsa.settings import Settings
from longtail.methods.heads.base import BLOCK_BYTES

SPREAD_FLOOR = 1e-4  # of the typical standard deviation


class FlowFilter(nn.Module):
    """The density model of one level.

    Buffers: ``offset`` and ``scale`` (d,), applied first (their log-determinant counts); ``centers`` (K, d'). With
    ``flow_dims`` d' < d also ``projection`` (d', d), which follows: densities are those of the d' components.
    """

    offset: Tensor
    scale: Tensor
    projection: Tensor | None
    centers: Tensor

    def __init__(self, width: int, settings: Settings) -> None:
        super().__init__()
        inner = settings.flow_width(width)
        self.flow = Flow(inner, settings.blocks, settings.hidden_layers, settings.log_scale_limit or None)
        self.register_buffer("offset", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("projection", torch.zeros(inner, width) if inner < width else None)
        self.register_buffer("centers", torch.zeros(settings.clusters, inner))

    def initialize(self, seed: int, center_std: float) -> None:
        """Random weights (uniform within 1/sqrt(fan_in)) and centers, each from a stream of its own."""
        for name, parameter in self.flow.named_parameters():
            if name.endswith(("weight", "bias")):
                fan_in = parameter.shape[-1] if parameter.ndim == 2 else self.centers.shape[1]
                bound = fan_in**-0.5
                values = generator(seed, "flow", name).uniform(-bound, bound, tuple(parameter.shape))
                parameter.data.copy_(torch.from_numpy(values))
        # The name of the stream decides the draws, so it keeps its spelling.
        centers = generator(seed, "centres").normal(0.0, center_std, tuple(self.centers.shape))
        self.centers.copy_(torch.from_numpy(centers))

    def standardize(self, X: Tensor) -> None:
        """Take offset and scale from rows X (N, d)."""
        for buffer, values in zip((self.offset, self.scale), moments(X), strict=True):
            buffer.copy_(values)

    def project(self, X: Tensor) -> None:
        """Take the principal components of rows X (N, d), after offset and scale, each scaled to variance 1."""
        assert self.projection is not None
        centered = (X - self.offset) / self.scale
        centered -= centered.mean(dim=0)
        values, vectors = torch.linalg.eigh(centered.T @ centered / len(X))
        values, vectors = values.flip(0)[: len(self.projection)], vectors.flip(1)[:, : len(self.projection)].T
        largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))  # made positive: its sign is arbitrary
        spread = torch.where(values > 1e-6 * values[0], values, 1.0).sqrt()
        self.projection.copy_(vectors * largest.sign() / spread[:, None])

    def latent(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """u (..., B, d') and log|det du/dx| (..., B) of rows (..., B, d)."""
        x = (X - self.offset) / self.scale
        if self.projection is not None:
            return self.flow(x @ self.projection.T)
        u, log_det = self.flow(x)
        return u, log_det - self.scale.log().sum()

    def components(self, X: Tensor) -> Tensor:
        """log p(x, k), (..., B, K)."""
        return component_log_densities(*self.latent(X), self.centers)

    @torch.no_grad()
    def measure(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x) (N,) and cluster (N,) int64 of rows X (N, d), in eval mode and in blocks."""
        self.eval()
        log_density = X.new_empty(len(X))
        cluster = torch.empty(len(X), dtype=torch.int64, device=X.device)
        for rows in self._blocks(len(X)):
            components = self.components(X[rows])
            log_density[rows] = mixture_log_density(components)
            cluster[rows] = components.argmax(dim=-1)
        return log_density, cluster

    @torch.no_grad()
    def latents(self, X: Tensor) -> Tensor:
        """u (N, d') of rows X (N, d), in eval mode and in blocks."""
        self.eval()
        found = X.new_empty(len(X), self.centers.shape[1])
        for rows in self._blocks(len(X)):
            found[rows] = self.latent(X[rows])[0]
        return found

    def _blocks(self, rows: int) -> list[slice]:
        width = 8 * (6 * self.offset.shape[0] + 2 * self.centers.shape[0])
        step = max(1, 4 * BLOCK_BYTES // width)
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def create_filter(X: Tensor, settings: Settings, seed: int) -> FlowFilter:
    """A new filter on the device and in the dtype of X (N, d), the training rows of its level."""
    made = FlowFilter(X.shape[1], settings).to(X)
    made.initialize(derive_seed(seed, "filter"), settings.center_std)
    if settings.standardize:
        made.standardize(X)
    if made.projection is not None:
        made.project(X)
    return made


def moments(X: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (d,) of rows X (N, d).

    A feature that hardly varies gets the typical standard deviation instead, so that it is not blown up.
    """
    std, mean = torch.std_mean(X, dim=0, correction=0)
    typical = std.square().mean().sqrt()
    typical = torch.where(typical > 0, typical, 1.0)
    return mean, torch.where(std > SPREAD_FLOOR * typical, std, typical)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The tensor as a NumPy array."""
    return tensor.detach().cpu().numpy()
