"""scikit-learn's checks of estimators, as tests."""

from collections.abc import Sequence
from typing import Any

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

# It wants SCIPY_ARRAY_API, which SciPy reads at its import; without it the check is skipped.
LEFT_OUT = {"check_array_api_input"}


def each_check(estimators: Sequence[Any]) -> pytest.MarkDecorator:
    """``parametrize_with_checks`` without the checks of LEFT_OUT."""
    mark = parametrize_with_checks(estimators)
    names, cases = mark.args
    return pytest.mark.parametrize(names, [case for case in cases if _name(case[1]) not in LEFT_OUT], **mark.kwargs)


def _name(check: Any) -> str:
    name: str = getattr(check, "func", check).__name__
    return name
