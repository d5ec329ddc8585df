"""Refused files: what the error says, and which stage it blames."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from longtail.core.errors import ArtifactError


@contextmanager
def refused(pattern: str, maker: str | None, missing: bool = False) -> Iterator[None]:
    """Expect an ArtifactError whose message matches ``pattern`` and that blames ``maker``."""
    with pytest.raises(ArtifactError, match=pattern) as caught:
        yield
    assert (caught.value.maker, caught.value.missing) == (maker, missing)
    assert str(caught.value) == f"{caught.value.path} {caught.value.problem}"
    assert "dvc" not in caught.value.problem
