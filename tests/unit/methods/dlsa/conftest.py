"""Fixtures that the tests of several modules of DLSA share."""

import pytest

from tests.unit.methods.dlsa.helpers import fitted


@pytest.fixture(scope="module")
def deep():
    return fitted(depth=3)
