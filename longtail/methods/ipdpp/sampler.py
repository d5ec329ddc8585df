"""IP-DPP undersampling as a sampler of imbalanced-learn, for arrays and any classifier of scikit-learn."""

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
    """Undersample classes by the information-preserving k-DPP (Lin & Yuan, NeurIPS 2025, section 3).

    Items whose own label a classifier finds improbable are drawn with larger probability: by odds of about
    1 - mean(p) p_i within a class, p_i the probability of the item's label.

    Parameters
    ----------
    sampling_strategy : float, str, dict or callable, default="auto"
        How many items of which classes to draw, as for every under-sampler of imbalanced-learn: "auto" draws as many
        of each class as the smallest has, a dict gives the number for each class to be drawn from.
    k : int, str or None, default=None
        Instead of ``sampling_strategy``: draw min(k, N_c) items of every class c, or "10*n_min" for ten times the
        smallest class.
    scale : {"n", "n2"}, default="n"
        The kernel of the paper ("n"), or of its released code ("n2"), which is all but uniform.
    estimator : classifier with ``predict_proba`` or None, default=None
        Where ``fit_resample`` is given no probabilities, a clone of it is fitted on X and y and predicts the same X,
        so the probabilities are in-sample; None is LogisticRegression(max_iter=1000).
    random_state : int, RandomState or None, default=None
        An int gives the same items every time, class by class, whatever other classes there are.

    Attributes
    ----------
    sample_indices_ : (M,) int64, sorted positions of the chosen items.
    inclusion_probability_ : (N,) float64, exact probability of each item of X to be chosen; 1 in classes kept whole.
    sampling_strategy_ : dict, label -> number of items drawn, for classes that are drawn from.
    estimator_ : the fitted classifier, where one was needed.
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
        """The chosen rows of X (N, D), array, sparse matrix or data frame, and of y (N,).

        sample_probability: (N,) probability of each row's own label, or None to take it from ``estimator``.
        Raises DataError for probabilities outside [0, 1], ConfigError for k beside sampling_strategy.
        """
        return super().fit_resample(X, y, sample_probability=sample_probability)

    def _fit_resample(self, X: Any, y: np.ndarray, sample_probability: ArrayLike | None) -> tuple[Any, np.ndarray]:
        sizes: Any = self.sampling_strategy_
        if self.k is not None:
            if isinstance(self.sampling_strategy, Mapping) or self.sampling_strategy != "auto":
                raise ConfigError(f"k={self.k!r} takes the place of sampling_strategy: leave that at 'auto'")
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
