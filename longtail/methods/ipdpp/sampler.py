"""IP-DPP undersampling as an imbalanced-learn sampler, for arrays and any scikit-learn classifier."""

import numbers
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from longtail.core.errors import ConfigError
from longtail.methods.ipdpp.information import SCALES
from longtail.methods.ipdpp.selection import select

try:
    from imblearn.under_sampling.base import BaseUnderSampler
except ImportError as error:
    raise ImportError("IPDPPSampler needs imbalanced-learn: pip install 'longtail[imbalanced]'") from error


class IPDPPSampler(BaseUnderSampler):
    """Undersample classes with the information-preserving k-DPP (Lin & Yuan, NeurIPS 2025, section 3).

    Items whose label a classifier finds improbable are more likely to be drawn. Within a class, the odds of item i are
    about 1 - mean(p) p_i, where p_i is the probability of its label.

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        How many items to draw from which classes, as in every imbalanced-learn undersampler. "auto" draws as many items
        of each class as the smallest class has. A dict gives the number for each class to draw from.
    k : int, str or None, default=None
        Use instead of ``sampling_strategy``: draw min(k, N_c) items of each class c. "10*n_min" means ten times the
        size of the smallest class.
    scale : {"n", "n2"}, default="n"
        The kernel of the paper ("n") or of its released code ("n2"), which is almost uniform.
    estimator : classifier with ``predict_proba`` or None, default=None
        Used if ``fit_resample`` is given no probabilities. A clone is fitted on X and y and predicts the same X, so the
        probabilities are in-sample. None means LogisticRegression(max_iter=1000).
    random_state : int, RandomState or None, default=None
        An int makes the draw reproducible. The items drawn from a class do not depend on the other classes.

    Attributes
    ----------
    sample_indices_ : (M,) int64, sorted positions of the chosen items.
    inclusion_probability_ : (N,) float64, exact probability that each item of X is chosen; 1 in classes kept whole.
    sampling_strategy_ : dict, label -> number of items drawn, for the classes that were drawn from.
    estimator_ : the fitted classifier, if one was needed.
    n_features_in_, feature_names_in_ : as in scikit-learn.
    """

    _parameter_constraints: ClassVar[dict] = {
        **BaseUnderSampler._parameter_constraints,
        "k": [Interval(numbers.Integral, 0, None, closed="left"), str, None],
        "scale": [StrOptions(set(SCALES))],
        "estimator": [HasMethods(["fit", "predict_proba"]), None],
        "random_state": ["random_state"],
    }

    sampling_strategy_: dict
    sample_indices_: np.ndarray
    inclusion_probability_: np.ndarray

    def __init__(
        self,
        *,
        sampling_strategy: Any = "auto",
        k: int | str | None = None,
        scale: str = "n",
        estimator: Any = None,
        random_state: Any = None,
    ) -> None:
        super().__init__(sampling_strategy=sampling_strategy)
        self.k = k
        self.scale = scale
        self.estimator = estimator
        self.random_state = random_state

    def fit_resample(self, X: Any, y: Any, sample_probability: ArrayLike | None = None) -> tuple[Any, Any]:
        """Return the chosen rows of X and y.

        X: (N, D) array, sparse matrix or data frame. y: (N,) labels.
        sample_probability: (N,) probability of each row's own label, or None to take it from ``estimator``.
        Raises DataError if a probability is outside [0, 1], and ConfigError if both k and sampling_strategy are given.
        """
        return super().fit_resample(X, y, sample_probability=sample_probability)

    def _fit_resample(self, X: Any, y: np.ndarray, sample_probability: ArrayLike | None) -> tuple[Any, np.ndarray]:
        sizes: Any = self.sampling_strategy_
        if self.k is not None:
            if isinstance(self.sampling_strategy, Mapping) or self.sampling_strategy != "auto":
                raise ConfigError(f"sampling_strategy must be 'auto' if k is given, got {self.sampling_strategy!r}")
            sizes = self.k
        if sample_probability is None:
            model = LogisticRegression(max_iter=1000) if self.estimator is None else clone(self.estimator)
            self.estimator_ = model.fit(X, y)
            column = np.searchsorted(model.classes_, y)
            sample_probability = model.predict_proba(X)[np.arange(len(y)), column]
        chosen = select(y, sizes, seed=self._seed(), probability=sample_probability, scale=self.scale)
        if self.k is not None:
            self.sampling_strategy_ = chosen.kept
        self.sample_indices_ = chosen.indices
        self.inclusion_probability_ = chosen.inclusion_probability
        return X[chosen.indices], y[chosen.indices]

    def _seed(self) -> int:
        if isinstance(self.random_state, numbers.Integral):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.sampler_tags.sample_indices = True
        return tags
