"""Shared parts of the heads: the linear or cosine starting head, and a scikit-learn classifier around the scores.

Shapes: X (N, D) float32 or float64 features (not normalized), y (N,) labels of any kind, C classes, scores (N, C).
No head copies all of X. Code that needs a copy works on blocks of rows.
"""

from collections.abc import Iterator
from typing import Any, Self, TypeVar

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from longtail.core.errors import ConfigError, DataError
from longtail.core.head import LinearHead
from longtail.core.params import Group, keys_of

G = TypeVar("G", bound=Group)
BLOCK_BYTES = 64 * 2**20


def as_linear_head(head: Any) -> LinearHead:
    """Make a LinearHead of another LinearHead, a (weight, bias) pair, or any object with ``weight`` and ``bias``.

    ``kind`` and ``scale`` of such an object are used if it has them. Arrays are not copied.
    """
    if isinstance(head, LinearHead):
        return head
    if hasattr(head, "weight") and hasattr(head, "bias"):
        weight, bias = head.weight, head.bias
        kind, scale = getattr(head, "kind", "linear"), getattr(head, "scale", 1.0)
    elif isinstance(head, tuple | list) and len(head) == 2:
        (weight, bias), kind, scale = head, "linear", 1.0
    else:
        raise DataError(f"head must be None, a LinearHead or a (weight, bias) pair, got {type(head).__name__}")
    return LinearHead(np.asarray(weight), None if bias is None else np.asarray(bias), kind, float(scale))


def row_blocks(rows: int, bytes_per_row: int) -> Iterator[slice]:
    """Slices that cover ``rows`` rows. The working memory of a block is about BLOCK_BYTES."""
    step = max(1, BLOCK_BYTES // max(1, bytes_per_row))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def draw_seed(random_state: Any) -> int:
    """The seed that scikit-learn's ``random_state`` means: an int is the seed; None and RandomState draw one."""
    if isinstance(random_state, int | np.integer):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


class HeadClassifier(ClassifierMixin, BaseEstimator):
    """A classifier built on ``_block_scores``: (M, D) validated rows -> (M, C) scores in the order of ``classes_``."""

    classes_: np.ndarray

    def _block_scores(self, X: np.ndarray) -> np.ndarray:
        raise AssertionError(f"{type(self).__name__} defines no scores")

    def scores(self, X: np.ndarray) -> np.ndarray:
        """(N, C) scores, one column per class, for any number of classes."""
        X = self._check_rows(X)
        blocks = [self._block_scores(X[rows]) for rows in self._row_blocks(X)]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """The scores (N, C). For two classes: (N,), the score of the second class minus that of the first."""
        scores = self.scores(X)
        return scores[:, 1] - scores[:, 0] if scores.shape[1] == 2 else scores

    def predict(self, X: np.ndarray) -> np.ndarray:
        """(N,) labels: the class with the highest score; on ties, the first of them in ``classes_``."""
        X = self._check_rows(X)
        best = [self._block_scores(X[rows]).argmax(axis=1) for rows in self._row_blocks(X)]
        return self.classes_[np.concatenate(best)]

    def _row_blocks(self, X: np.ndarray) -> Iterator[slice]:
        return row_blocks(len(X), 8 * (X.shape[1] + 2 * len(self.classes_)))

    def _check_rows(self, X: np.ndarray) -> np.ndarray:
        check_is_fitted(self)
        return validate_data(self, X, dtype=[np.float64, np.float32], reset=False)

    def _parameters(self, group: type[G]) -> G:
        """The arguments that are keys of ``group``, which checks them."""
        given = self.get_params(deep=False)
        return group(**{name: given[name] for name in keys_of(group) if name in given})

    def _check_training(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Validated X and y as class positions 0..C-1; sets ``classes_``."""
        X, y = validate_data(self, X, y, dtype=[np.float64, np.float32])
        check_classification_targets(y)
        self.classes_, encoded = np.unique(y, return_inverse=True)
        return X, encoded.astype(np.int64, copy=False)

    def _check_validation(self, X_val: Any, y_val: Any, part: str = "val") -> tuple[np.ndarray, np.ndarray] | None:
        """Validated X_val and y_val as class positions, or None if neither is given. Call it after _check_training.

        ``part`` is their name in messages."""
        if X_val is None and y_val is None:
            return None
        if X_val is None or y_val is None:
            raise ConfigError(f"X_{part} and y_{part} must be given together")
        X_val, y_val = validate_data(self, X_val, y_val, dtype=[np.float64, np.float32], reset=False)
        position = np.minimum(np.searchsorted(self.classes_, y_val), len(self.classes_) - 1)
        unknown = self.classes_[position] != y_val
        if unknown.any():
            raise DataError(
                f"y_{part} holds classes that y does not: {', '.join(map(str, np.unique(y_val[unknown])[:5]))}"
            )
        return X_val, position.astype(np.int64, copy=False)

    def _starting_head(self, head: Any, X: np.ndarray, y: np.ndarray) -> LinearHead:
        """The given head, checked against the classes and features, or the base head of X and y."""
        num_classes = len(self.classes_)
        if head is None:
            from longtail.methods.heads.softmax_regression import SoftmaxRegression

            seed = draw_seed(getattr(self, "random_state", 0))
            base = SoftmaxRegression(device=getattr(self, "device", "cpu"), random_state=seed)
            return base.fit(X, y).head_
        head = as_linear_head(head)
        if head.weight.shape != (num_classes, X.shape[1]):
            raise DataError(
                f"head.weight must have shape ({num_classes}, {X.shape[1]}), one row per class of y and one column per "
                f"feature of X, got {head.weight.shape}"
            )
        return head


class LinearFormMixin:
    """Scores of estimators whose result is one linear head.

    Attributes:
        linear_head_: the head that the estimator started from.
        head_: the head that gives the scores. It acts on the same inputs as the head that the estimator started from:
            x, x / ||x|| for a cosine head, or (x - center) / spread for a standardized one.
        weight_, bias_, unit_input_: of the same head on x or x / ||x||: (C, D), (C,) or None, and bool.
    """

    linear_head_: LinearHead
    head_: LinearHead

    @property
    def weight_(self) -> np.ndarray:
        return self.head_.on_raw().weight

    @property
    def bias_(self) -> np.ndarray | None:
        return self.head_.on_raw().bias

    @property
    def unit_input_(self) -> bool:
        return self.head_.unit_input

    def _block_scores(self, X: np.ndarray) -> np.ndarray:
        return self.head_.scores(X)

    def _set_linear_form(self, start: LinearHead, weight: np.ndarray, bias: np.ndarray | None) -> Self:
        self.linear_head_ = start
        self.head_ = start.with_weights(weight, bias)
        return self


class LikelihoodMixin:
    """Probabilities of heads that are fitted by likelihood: the softmax of their scores."""

    def predict_proba(self: Any, X: np.ndarray) -> np.ndarray:
        """(N, C) probabilities."""
        from scipy.special import softmax

        return softmax(self.scores(X), axis=1)

    def predict_log_proba(self: Any, X: np.ndarray) -> np.ndarray:
        """(N, C) natural logarithms of the probabilities, exact where those underflow."""
        from scipy.special import log_softmax

        return log_softmax(self.scores(X), axis=1)
