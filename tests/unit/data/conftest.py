"""Fixtures that the tests of several modules of data share."""

from pathlib import Path

import pytest

from longtail.data.sources import file_lists
from longtail.data.sources.base import Source


@pytest.fixture(scope="module")
def splits(shared_data) -> Path:
    return shared_data / "splits"


@pytest.fixture(scope="module")
def places(splits) -> Source:
    lists = {part: splits / f"Places_LT_{part}.txt.gz" for part in ("train", "val", "test")}
    return file_lists.load(Path("/data"), lists, relabel=False)
