"""The printed table of the last evaluation: all registered rows in registry order, then others."""

import json

import numpy as np
import pytest

from longtail.core.errors import ArtifactError
from longtail.methods.heads import HEADS
from longtail.methods.stage_methods import STAGE_METHODS
from stages import table
from stages.context import run
from stages.evaluate import table_rows


@pytest.fixture
def metrics(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "metrics").mkdir()
    return tmp_path / "metrics"


def printed_rows(capsys: pytest.CaptureFixture[str]) -> list[str]:
    lines = capsys.readouterr().out.splitlines()
    rows = lines[lines.index(next(line for line in lines if line.startswith("---"))) + 1 :]
    return [line.split()[0] for line in rows[: next(i for i, line in enumerate(rows) if line.startswith("percent"))]]


def test_rows_are_the_registered_heads_by_rank_then_the_methods_with_a_stage_of_their_own():
    heads = list(HEADS.entries())
    methods = [row for entry in STAGE_METHODS.entries().values() for row in entry.rows]
    assert [row.name for row in table_rows()] == [*heads, *methods]
    ranks = [entry.rank for entry in HEADS.entries().values()]
    assert ranks == sorted(ranks)
    assert heads[0] == "joint" and methods == ["dlsa_control", "dlsa", "ipdpp_uniform", "ipdpp"]


def test_table_is_in_registry_order_whatever_the_order_of_the_file(metrics, capsys):
    names = [row.name for row in table_rows()]
    shuffled = np.random.default_rng(0).permutation([*names, "other"]).tolist()
    (metrics / "summary.json").write_text(json.dumps({name: {"all": 50.0, "ece": 1.0} for name in shuffled}))
    table.main()
    assert printed_rows(capsys) == [*names, "other"]


def test_table_of_some_methods_lists_these_alone_with_marks_and_size(metrics, capsys):
    (metrics / "summary.json").write_text(
        json.dumps({"tau": {"all": 61.0, "ece": 1.0}, "crt": {"all": 60.0, "ece": 2}})
    )
    (metrics / "details.json").write_text(json.dumps({"tau": {"uncalibrated": 1}, "crt": {}}))
    size = {"backbone": "resnet8", "parameters": 1000, "macs": 2000}
    (metrics / "selection.json").write_text(json.dumps({"backbone": size}))
    table.main()
    output = capsys.readouterr().out
    assert [line.split()[0] for line in output.splitlines()[2:4]] == ["crt", "tau"]
    assert "~1.00" in output and "2.00+" in output
    assert "resnet8 with its head: 1,000 parameters, 2,000 multiply-accumulates per image" in output


def test_missing_summary_ends_in_one_sentence_that_names_the_stage(metrics, capsys):
    with pytest.raises(ArtifactError) as caught:
        table.main()
    assert caught.value.maker == "evaluate" and caught.value.missing
    with pytest.raises(SystemExit) as ended:
        run(table.main)
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "summary.json" in error and "dvc repro evaluate" in error
