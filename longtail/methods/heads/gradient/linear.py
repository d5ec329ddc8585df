"""Linear heads that SGD trains, on standardized features or on the features as they are."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from longtail.core.head import LinearHead, StandardizedHead
from longtail.methods.heads.gradient.held_out import Chosen, Labeled, S, train_chosen
from longtail.methods.heads.gradient.row_loss import RowLoss
from longtail.methods.heads.gradient.scorers import LinearScorer, linear_scorer
from longtail.methods.heads.gradient.sgd import HeadSgd
from longtail.methods.heads.standardization import standardization
from longtail.train.device import to_device
from longtail.train.loop import Outcome

POWER_STEPS = 20


def train_linear(
    sgd: HeadSgd,
    X: np.ndarray,
    y: np.ndarray,
    val: tuple[np.ndarray, np.ndarray] | None,
    *,
    standardize: bool,
    relative_rate: float,
    settings: Sequence[S],
    weight_decay: Callable[[S], float],
    initial: LinearHead | None = None,
    smoothing: float = 0.0,
    class_weights: Callable[[np.ndarray], np.ndarray] | None = None,
    cap: Callable[[S], float] | None = None,
    otherwise: S | None = None,
    mildest: bool = True,
) -> tuple[LinearHead, Chosen[S, LinearScorer]]:
    """Train a head; see ``train_chosen`` for the choice of setting and epoch.

    Args:
        sgd: how it is trained.
        X: (N, D); y: (N,) class positions, every class present.
        val: the same of the validation rows, or None.
        standardize: whether the head acts on standardized features.
        relative_rate: what a rate ``auto`` is, times the largest mean square of the rows along any direction.
        settings: to choose from.
        weight_decay: setting -> weight decay of SGD.
        initial: weight and bias to start from; None starts from zero.
        smoothing: of the targets.
        class_weights: class counts (C,) -> weights (C,) of the rows in the loss.
        cap: setting -> largest norm of a weight row, which is kept after every step.
        otherwise, mildest: see ``train_chosen``.

    Returns the head at the start, on the inputs that it is trained on, and what was chosen.
    """
    params, device = sgd.params, sgd.torch_device()
    num_classes, width = int(y.max()) + 1, X.shape[1]
    start = initial or LinearHead(np.zeros((num_classes, width), X.dtype), np.zeros(num_classes, X.dtype))
    if standardize:
        center, spread = standardization(X)
        start = StandardizedHead(start.weight, start.bias, center=center, spread=spread, prior="uniform")
    rows = to_device(start.inputs(X), device)
    rate = relative_rate / largest_variance(rows) if params.lr == "auto" else params.lr

    def train(setting: S, on: Labeled, judge: Labeled | None, epochs: int, part: str) -> tuple[LinearScorer, Outcome]:
        scorer = linear_scorer(start, device)
        weights = None
        if class_weights is not None:
            weights = to_device(class_weights(np.bincount(on[1])), device).to(rows.dtype)
        after_step = None
        if cap is not None:
            largest = cap(setting)

            def after_step() -> None:
                norms = scorer.weight.norm(dim=1, keepdim=True)
                scorer.weight.mul_(largest / norms.clamp_min(largest))

        outcome = sgd.train(
            scorer,
            *on,
            judge,
            lr=rate,
            weight_decay=weight_decay(setting),
            select="last" if judge is None and params.select == "auto" else params.select,
            epochs=epochs,
            part=part,
            loss=RowLoss(smoothing, class_weights=weights),
            after_step=after_step,
        )
        return scorer, outcome

    judge = None if val is None else (to_device(start.inputs(val[0].astype(X.dtype, copy=False)), device), val[1])
    stream = (sgd.seed, f"{params.path} folds")
    chosen = train_chosen(
        train,
        settings,
        (rows, y),
        judge,
        epochs=params.epochs,
        select=params.select,
        stream=stream,
        otherwise=otherwise,
        mildest=mildest,
    )
    return start, chosen


def largest_variance(rows: Tensor) -> float:
    """Largest eigenvalue of rows^T rows / N for rows (N, D) of mean 0, by power iteration; 1 if all are 0."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64).to(rows.device, rows.dtype)
    value = direction.new_zeros(())
    for _ in range(POWER_STEPS):
        direction = rows.T @ (rows @ (direction / direction.norm().clamp_min(1e-30)))
        value = direction.norm() / len(rows)
    return float(value) or 1.0
