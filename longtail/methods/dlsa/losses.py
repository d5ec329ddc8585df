"""The three losses of DLSA's flow (Xu et al. 2022, official code), and balanced softmax (Ren et al. 2020).

B pairs, K clusters, C classes. All losses are in nats and minimized.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

ABSENT = 1e-6  # stands for a count of 0 under the logarithm


def class_weights(counts: Tensor, q: float) -> Tensor:
    """(C,): (n_max / n_c)^q, made to sum to 1 over the classes present; 0 for absent ones. counts: (C,)."""
    counts = counts.to(torch.float64)
    present = counts > 0
    weights = torch.where(present, (counts.max() / counts.clamp(min=1)) ** q, 0.0)
    return weights / weights.sum()


def likelihood_loss(log_density: Tensor, weights: Tensor) -> Tensor:
    """-mean of w log p. log_density: (B,); weights: (B,) of the rows' classes."""
    return -(weights * log_density).mean()


def purity_loss(
    positive: Tensor, negative: Tensor, *, hard: bool = False, margin: float = 0.0, freeze: bool = True
) -> Tensor:
    """Mean over pairs of sum_k p_k(x+) log p_k(x-): high where two classes share clusters.

    positive, negative: (B, K) log p(x, k). hard: p(x+) becomes one-hot at its maximum. margin: p(x-) is raised to it
    before the logarithm. freeze: no gradient through p(x+).
    """
    positive = positive.detach() if freeze else positive
    if hard:
        target = functional.one_hot(positive.argmax(dim=-1), positive.shape[-1]).to(positive)
    else:
        target = positive.softmax(dim=-1)
    log_negative = negative.log_softmax(dim=-1)
    if margin > 0:
        log_negative = log_negative.exp().clamp(margin, 1.0).log()
    return (target * log_negative).sum(dim=-1).mean()


def balance_loss(
    positive: Tensor, average: Tensor, step: int | Tensor, momentum: float | None = 0.7
) -> tuple[Tensor, Tensor]:
    """KL of the mean posterior from uniform, and the new running average.

    positive: (B, K) log p(x, k). average: (K,) of the steps before, zeros at first. step: 1-based, over the whole run.
    The running average is corrected for its start at 0; gradient reaches this batch's share alone. momentum None: the
    batch alone counts, and the average is returned as given.
    """
    mean = positive.softmax(dim=-1).mean(dim=0) + 1e-7
    if momentum is None:
        corrected = mean
    else:
        average = momentum * average.detach() + (1 - momentum) * mean
        corrected = average / (1 - momentum**step)
    loss = (corrected * corrected.log()).sum() + math.log(positive.shape[-1])
    return loss, average.detach()


def log_prior(counts: Tensor) -> Tensor:
    """(C,): log of the class counts; an absent class counts as 1e-6."""
    return torch.where(counts > 0, counts.to(torch.float64), ABSENT).log()


def balanced_softmax_loss(logits: Tensor, labels: Tensor, prior: Tensor) -> Tensor:
    """Cross-entropy of logits + log counts. logits: (B, C); labels: (B,); prior: (C,) of ``log_prior``."""
    return functional.cross_entropy(logits + prior, labels)
