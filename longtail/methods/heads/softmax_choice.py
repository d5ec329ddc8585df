"""What is chosen or learned from rows that a softmax regression has not seen: its L2 strength, and scores of such rows.

The fits use the first REDUCED principal axes. Those that only choose the strength are coarse.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from longtail.core.head import StandardizedHead
from longtail.methods.heads.held_out import FOLDS, NOISE, folds, held_out_folds, within_budget
from longtail.methods.heads.softmax_solver import COARSE, EXACT, PrincipalRows, Weights
from longtail.train.device import to_device

REDUCED = 512
# Heads of cross-fits must have the margins of the head that they stand for, so they converge as far, but from zero.
CROSS = replace(EXACT, work=5.4e10, fewest=20)
SELECTION_ROWS = 40_000  # with more rows than this, large classes are cut for the choice of the L2 strength


@dataclass(frozen=True)
class ChosenL2:
    """The outcome of ``choose_l2``.

    Attributes:
        l2: the best value, or None if no row could be held out.
        start: weights fitted with it, from which the fit on all rows may start.
        grid, macro: (T,), the values tried and their mean class accuracy in [0, 1].
        selected_on: ``val``, ``train_slice`` or ``fixed``.
    """

    l2: float | None
    start: Weights | None
    grid: np.ndarray
    macro: np.ndarray
    selected_on: str


def choose_l2(
    rows: PrincipalRows,
    val: tuple[np.ndarray, np.ndarray] | None,
    seed: int,
    grid: tuple[float, ...],
    patience: int,
) -> ChosenL2:
    """The value of ``grid``, which falls, with the best mean class accuracy under a uniform prior.

    Values within one standard error of the best are equally good: a small class has a row or two to judge with, so the
    largest mean of a few classes is often luck. Of these, the one with the largest log-likelihood is taken, also as a
    mean over classes. So something is chosen even where every held-out row is classified correctly.

    With more than SELECTION_ROWS rows, the large classes are cut to one size for this. Since the best l2 * N hardly
    depends on N, the values are then divided by the share of the rows that is left.

    val: (M, D) features and (M,) class positions that judge; None holds out training rows.
    """
    y = rows.y
    used = np.flatnonzero(within_budget(y, SELECTION_ROWS, seed))
    share = len(used) / len(y)
    features = rows.rows[:, :REDUCED] if share == 1 else rows.rows[to_device(used, rows.rows.device), :REDUCED]
    y = y[used]
    judges: list[_Judge] = []
    if val is not None:
        everything = np.ones(len(y), bool)
        judges.append(_Judge(rows, features, y, everything, rows.on_axes(val[0])[:, :REDUCED], val[1]))
    else:
        for held_out in held_out_folds(y, seed, "l2 folds"):
            judge = features[to_device(np.flatnonzero(held_out), features.device)]
            judges.append(_Judge(rows, features, y, ~held_out, judge, y[held_out]))
    if not judges:
        return ChosenL2(None, None, np.empty(0), np.empty(0), "fixed")
    labels = np.concatenate([judge.labels for judge in judges])
    right: list[np.ndarray] = []
    macro: list[float] = []
    likelihood: list[float] = []
    starts: list[Weights] = []
    for l2 in grid:
        found = [judge.judge(l2 / share) for judge in judges]
        right.append(np.concatenate([hits for hits, _ in found]))
        macro.append(_class_mean(right[-1], labels))
        likelihood.append(_class_mean(np.concatenate([log_p for _, log_p in found]), labels))
        starts.append(judges[0].for_all_rows())
        if len(macro) - 1 - max(np.flatnonzero(np.array(macro) >= max(macro) - NOISE)) >= patience:
            break
    best = int(np.argmax(macro))
    errors = [max(NOISE, _standard_error(right[best] != one, labels)) for one in right]
    equal = [number for number, error in enumerate(errors) if macro[number] >= macro[best] - error]
    chosen = max(equal, key=likelihood.__getitem__)
    selected_on = "train_slice" if val is None else "val"
    return ChosenL2(grid[chosen], starts[chosen], np.asarray(grid[: len(macro)]), np.asarray(macro), selected_on)


def _class_mean(values: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes in ``labels`` (M,) of their mean of ``values`` (M,)."""
    counts = np.bincount(labels)
    present = counts > 0
    return float((np.bincount(labels, weights=values)[present] / counts[present]).mean())


def _standard_error(differs: np.ndarray, labels: np.ndarray) -> float:
    """Of the difference of two mean class accuracies on the same rows, if in truth they are equal.

    differs (M,) bool: one of the two is right in the row and the other is wrong.
    """
    counts = np.bincount(labels)
    return float(np.sqrt((1 / counts[labels[differs]] ** 2).sum()) / np.count_nonzero(counts))


class _Judge:
    """Fits on some of the rows along the path of L2 strengths, and counts hits on others."""

    def __init__(
        self, rows: PrincipalRows, features: Tensor, y: np.ndarray, kept: np.ndarray, judge: Tensor, labels: np.ndarray
    ) -> None:
        device = features.device
        self._rows, self._judge, self.labels = rows, judge, labels
        self._features = features if kept.all() else features[to_device(np.flatnonzero(kept), device)]
        self._targets = to_device(y[kept], device)
        shares = np.bincount(y[kept], minlength=rows.num_classes) / kept.sum()
        self._log_prior = to_device(np.log(shares), device).to(features.dtype)
        self._weights: Weights | None = None

    def judge(self, l2: float) -> tuple[np.ndarray, np.ndarray]:
        """Whether each row is classified correctly, (M,) bool, and its log-likelihood (nats), under a uniform prior."""
        weights = self._rows.solve(l2, self._weights, self._features, self._targets, COARSE)
        self._weights = weights
        scores = torch.addmm(weights.bias - self._log_prior, self._judge, weights.weight.T)
        log_p = torch.log_softmax(scores, dim=1).cpu().numpy()[np.arange(len(self.labels)), self.labels]
        return scores.argmax(dim=1).cpu().numpy() == self.labels, log_p

    def for_all_rows(self) -> Weights:
        """The last weights, with the prior of all training rows."""
        assert self._weights is not None
        return Weights(self._weights.weight, self._weights.bias - self._log_prior + self._rows.log_prior)


def cross_fits(
    X: np.ndarray, y: np.ndarray, head: StandardizedHead, seed: int, device: torch.device
) -> Iterator[tuple[np.ndarray, StandardizedHead]]:
    """Five times: the rows of a fold, (N,) bool, and the head that is fitted on the others like ``head``.

    Rows that a head was fitted on have larger margins than new rows, most of all in small classes. So what is learned
    from a head's scores must be learned from rows that it has not seen. The only row of a class is in no fold.
    """
    assert head.l2 is not None, "the head is no softmax regression any more"
    rows = PrincipalRows(X, y, len(head.weight), device)
    features, fold = rows.rows[:, :REDUCED], folds(y, seed, "cross-fit folds")
    for number in range(FOLDS):
        held_out = fold == number
        if held_out.any():
            kept = to_device(np.flatnonzero(~held_out), device)
            targets = to_device(y[~held_out], device)
            weights = rows.solve(head.l2, None, features[kept], targets, CROSS)
            fitted = rows.head(weights, head.l2)
            yield held_out, fitted.with_prior(head.prior, np.bincount(y[~held_out]) / len(targets))


def out_of_fold_scores(
    X: np.ndarray, y: np.ndarray, head: StandardizedHead, seed: int, device: torch.device
) -> np.ndarray:
    """(N, C) scores of each training row by the head of ``cross_fits`` that has not seen it.

    The only row of a class gets its score from ``head``.
    """
    scores = head.scores(X)
    for held_out, fitted in cross_fits(X, y, head, seed, device):
        scores[held_out] = fitted.scores(X[held_out])
    return scores
