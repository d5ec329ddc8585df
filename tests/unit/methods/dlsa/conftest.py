"""Fixtures that the tests of several modules of DLSA share."""

from functools import partial

import pytest

from longtail.train.checkpointing import CheckpointStore
from tests.unit.methods.dlsa.helpers import fitted


@pytest.fixture(scope="module")
def deep():
    return fitted(depth=3)


@pytest.fixture
def store(tmp_path):
    """``store()`` or ``store(every=2)``: checkpoints in the same folder."""
    (tmp_path / "train_dlsa" / "run").mkdir(parents=True)
    return partial(CheckpointStore, tmp_path / "train_dlsa" / "run")
