"""Errors: what they carry, and the advice that a stage adds."""

import copy
import pickle
import re
from pathlib import Path

import pytest

from longtail.core.errors import ArtifactError, ConfigError
from longtail.data.manifest import ChangedImageError
from stages.context import advice, run

ROOT = Path(__file__).parents[3]


def test_artifact_error_carries_its_parts_also_through_a_pipe():
    error = ArtifactError(Path("features/head.h5"), "is missing", "extract_features", missing=True)
    for same in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301
        assert str(same) == "features/head.h5 is missing"
        assert (same.path, same.problem) == ("features/head.h5", "is missing")
        assert (same.maker, same.missing) == ("extract_features", True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ArtifactError("a", "is missing", "rebalance@crt", missing=True), "; make it with `dvc repro rebalance@crt`"),
        (ArtifactError("a", "is damaged", "rebalance@crt"), "; make it again with `dvc repro -f rebalance@crt`"),
        (ChangedImageError("image a.png has changed"), "; make it again with `dvc repro -f prepare`"),
        (ArtifactError("a", "is in use"), ""),
        (ConfigError("seed must be at least 0, got -1"), ""),
    ],
)
def test_stage_adds_the_advice_in_one_line(capsys, error, expected):
    assert advice(error) == f"{error}{expected}"

    def stage() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(stage)
    assert caught.value.code == 1
    assert capsys.readouterr().err == f"error: {error}{expected}\n"


def test_library_gives_no_advice_about_dvc():
    for path in (ROOT / "longtail").rglob("*.py"):
        assert not re.search(r"dvc (repro|exp)", path.read_text()), path
