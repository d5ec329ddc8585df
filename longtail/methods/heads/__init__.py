"""Classifier repairs for long-tailed recognition as scikit-learn estimators: Joint, NCM, CRT, TauNorm, LWS,
LogitAdjustment.

Names are resolved on first use, so that importing one head imports nothing of the others.
"""

import importlib
from typing import Any

_HOME = {
    "CRT": "crt",
    "LWS": "lws",
    "NCM": "ncm",
    "HeadClassifier": "base",
    "Joint": "joint",
    "LinearHead": "base",
    "LogitAdjustment": "logit_adjustment",
    "TauNorm": "tau",
}

__all__ = ["CRT", "LWS", "NCM", "HeadClassifier", "Joint", "LinearHead", "LogitAdjustment", "TauNorm"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
