"""The heads that DLSA's warm starts begin from."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from longtail.core.head import LinearHead, StandardizedHead
from longtail.methods.dlsa.filter import to_numpy
from longtail.methods.heads.softmax_regression import SoftmaxRegression


def base_head(
    X: np.ndarray,
    y: np.ndarray,
    val: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    prior: str = "uniform",
    l2: float | str = "auto",
    device: str = "cpu",
    seed: int = 0,
) -> StandardizedHead:
    """The base head of rows X (N, d) and y (N,): see ``longtail.methods.heads.softmax_regression``.

    ``val``, X and y of held-out rows, chooses the L2 strength if that is ``auto``.
    """
    return SoftmaxRegression(prior, l2, device, seed).fit(X, y, *(val or ())).head_


@dataclass(frozen=True)
class Starts:
    """Starting heads: ``whole`` was fitted on all training rows, ``fold`` without the held-out ones.

    Either is None where nothing starts from it.
    """

    whole: LinearHead | None = None
    fold: LinearHead | None = None


def on_standardized(head: LinearHead, moments: tuple[Tensor, Tensor] | None) -> tuple[np.ndarray, np.ndarray]:
    """Weight (C, d) and bias (C,) that give the scores of ``head`` from (x - offset) / scale; from x without moments.

    moments: offset and scale (d,).
    """
    weight = head.effective_weight().astype(np.float64)
    bias = np.zeros(len(weight)) if head.bias is None else head.bias.astype(np.float64)
    width = weight.shape[1]
    center, spread = np.zeros(width), np.ones(width)
    if isinstance(head, StandardizedHead):
        center, spread = head.center, head.spread
    offset, scale = np.zeros(width), np.ones(width)
    if moments is not None:
        offset, scale = (to_numpy(part).astype(np.float64) for part in moments)
    weight /= spread
    return weight * scale, bias + weight @ (offset - center)
