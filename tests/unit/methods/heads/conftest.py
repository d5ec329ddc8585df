"""Fixtures that the tests of several heads share."""

import pytest

from tests.unit.methods.heads.helpers import long_tail


@pytest.fixture
def tail():
    return long_tail(0)
