"""Classifier heads on features, as scikit-learn estimators. One module per head.

A module defines the estimator and its parameters, and declares its entry as ``HEAD``. The estimators can be imported
from here. A name is resolved on first use, so importing one head loads none of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from longtail.core.lazy import lazy_names
from longtail.core.params import Group
from longtail.core.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from longtail.methods.heads.base import HeadClassifier


def _nothing(estimator: Any, params: Any) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, kw_only=True)
class HeadEntry:
    """A head, its parameters, and its row in the table.

    Attributes:
        estimator: the class. The keys of ``params`` that its ``__init__`` takes are passed on, and so are ``head`` (the
            stage-1 head), ``device``, ``progress`` and ``random_state`` where it takes them. ``fit`` is called with the
            validation rows if it takes ``X_val``.
        params: its group in params.yaml, which has the name of the module.
        rank: place of its row; smaller is higher.
        likelihood: whether the softmax of the scores is the likelihood of a model, so that calibration can be judged.
        is_stage1: whether it is the stage-1 head itself, whose notes then are its own.
        arguments: arguments of the estimator whose names differ from the keys.
        selects_on: parameters -> the part whose rows ``fit`` gets as validation rows, ``val`` or ``test``.
        notes: (fitted estimator, parameters) -> what was chosen, for ``metrics/selection.json``.
        arrays: (fitted estimator, parameters) -> further arrays of the head file.
    """

    estimator: type[HeadClassifier]
    params: type[Group]
    rank: int = 100
    likelihood: bool = True
    is_stage1: bool = False
    arguments: Callable[[Any], dict[str, Any]] = lambda params: {}
    selects_on: Callable[[Any], str] = lambda params: "val"
    notes: Callable[[Any, Any], dict[str, str | int | float | bool]] = _nothing
    arrays: Callable[[Any, Any], dict[str, np.ndarray]] = _nothing


HEADS: Registry[HeadEntry] = Registry("longtail.methods.heads", "HEAD", "method")

_HOME = {
    "CRT": "crt",
    "Cosine": "cosine",
    "KNN": "knn",
    "LDA": "lda",
    "LOS": "los",
    "LWS": "lws",
    "MaxNorm": "max_norm",
    "NCM": "ncm",
    "HeadClassifier": "base",
    "Joint": "joint",
    "LinearHead": "base",
    "LogitAdjustment": "logit_adjustment",
    "SoftmaxRegression": "softmax_regression",
    "TauNorm": "tau",
}

__all__ = [
    "CRT",
    "HEADS",
    "KNN",
    "LDA",
    "LOS",
    "LWS",
    "NCM",
    "Cosine",
    "HeadClassifier",
    "HeadEntry",
    "Joint",
    "LinearHead",
    "LogitAdjustment",
    "MaxNorm",
    "SoftmaxRegression",
    "TauNorm",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
