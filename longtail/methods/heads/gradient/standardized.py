"""cRT on standardized features, with the weight decay and the epoch chosen on held-out rows."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from longtail.core.head import LinearHead, StandardizedHead
from longtail.methods.heads.gradient.scorers import LinearScorer, linear_scorer
from longtail.methods.heads.gradient.sgd import HeadSgd
from longtail.methods.heads.softmax_solver import FEW_ROWS, FOLDS, folds, standardization
from longtail.train.device import to_device
from longtail.train.loop import Outcome

DECAYS = (0.3, 0.1, 0.03, 0.01)
WITHOUT_SELECTION = 0.1
RATE = 0.5  # over the largest variance along any direction
POWER_STEPS = 20


@dataclass(frozen=True)
class Fitted:
    """The trained weights, how they were trained, and which rows chose that (``val``, ``train_slice`` or nothing)."""

    scorer: LinearScorer
    outcome: Outcome
    weight_decay: float
    selected_on: str


def train_standardized(
    sgd: HeadSgd, start: LinearHead, X: np.ndarray, y: np.ndarray, val: tuple[np.ndarray, np.ndarray] | None
) -> tuple[StandardizedHead, Fitted]:
    """Train the weights of ``start`` on standardized rows.

    With validation rows they judge every weight decay and epoch, and the best weights are kept. Without them a fold of
    the rows does (five folds, one after the other, if there are few rows), and the head is then trained on all rows
    with the chosen weight decay for the chosen number of epochs.

    X: (N, D); y: (N,) class positions; val: the same of the validation rows. Returns ``start`` on the standardized
    features, and what was trained.
    """
    center, spread = standardization(X)
    device = sgd.torch_device()
    standardized = StandardizedHead(start.weight, start.bias, center=center, spread=spread, prior="uniform")
    rows = to_device(standardized.inputs(X), device)
    rate = RATE / largest_variance(rows)
    params = sgd.params
    decays = DECAYS if params.weight_decay == "auto" else (params.weight_decay,)

    def train(
        decay: float,
        kept: np.ndarray | None = None,
        judge: tuple[Tensor, np.ndarray] | None = None,
        part: str = "",
        epochs: int = params.epochs,
    ) -> Fitted:
        scorer = linear_scorer(standardized, device)
        used = rows if kept is None else rows[to_device(np.flatnonzero(kept), device)]
        outcome = sgd.train(
            scorer,
            used,
            y if kept is None else y[kept],
            judge,
            lr=rate,
            weight_decay=decay,
            select="last" if judge is None and params.select == "auto" else params.select,
            epochs=epochs,
            part=part,
        )
        return Fitted(scorer, outcome, decay, outcome.rule)

    if val is not None:
        judge = to_device(standardized.inputs(val[0].astype(X.dtype, copy=False)), device), val[1]
        candidates = [train(decay, judge=judge, part=_part(decay)) for decay in decays]
        return standardized, max(candidates, key=lambda fitted: _score(fitted.outcome, params.select))
    if params.select != "auto":
        decay = WITHOUT_SELECTION if params.weight_decay == "auto" else params.weight_decay
        return standardized, train(decay)
    fold = folds(y, sgd.seed, "crt folds")
    judged: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(FOLDS if len(y) < FEW_ROWS else 1):
        held_out = fold == number
        if held_out.any():
            judged.append((~held_out, held_out))
    if not judged:
        return standardized, train(WITHOUT_SELECTION if params.weight_decay == "auto" else params.weight_decay)
    best, best_score = (decays[0], params.epochs), -1.0
    for decay in decays:
        curves = []
        for number, (kept, held_out) in enumerate(judged):
            judge = rows[to_device(np.flatnonzero(held_out), device)], y[held_out]
            fitted = train(decay, kept, judge, f"{_part(decay)}_fold_{number}")
            curves.append(fitted.outcome.columns()["val_macro"])
        curve = np.mean(curves, axis=0)
        if curve.max() > best_score:
            best, best_score = (decay, int(np.argmax(curve)) + 1), float(curve.max())
    return standardized, replace(train(best[0], epochs=best[1]), selected_on="train_slice")


def _part(decay: float) -> str:
    return f"decay_{decay:g}".replace(".", "-").replace("e-", "e")


def _score(outcome: Outcome, select: str) -> float:
    columns = outcome.columns()
    if select == "last":
        return columns["val_macro"][-1]
    return max(columns["val_macro" if select == "auto" else "val_accuracy"])


def largest_variance(rows: Tensor) -> float:
    """Largest eigenvalue of rows^T rows / N for rows (N, D) of mean 0, by power iteration; 1 if all are 0."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64).to(rows.device, rows.dtype)
    value = direction.new_zeros(())
    for _ in range(POWER_STEPS):
        direction = rows.T @ (rows @ (direction / direction.norm().clamp_min(1e-30)))
        value = direction.norm() / len(rows)
    return float(value) or 1.0
