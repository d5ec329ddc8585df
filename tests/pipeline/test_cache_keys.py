"""What runs again after an edit of the code, and with a head more, through the real dvc."""

import json
import re

import pytest

from tests.imports import ROOT
from tests.pipeline.conftest import FEW_HEADS, stages_run

DOCUMENT = (ROOT / "docs" / "adding-a-method.md").read_text()
MODULE, GROUP, LINE = re.findall(r"```\w+\n(.*?)```", DOCUMENT, re.DOTALL)[:3]


def edit(project, path, old, new):
    """Replace the first ``old`` in a file of the project."""
    file = project.folder / path
    text = file.read_text()
    assert old in text, f"{path} does not contain {old!r}"
    file.write_text(text.replace(old, new, 1))


@pytest.fixture
def edited(few_heads):
    """The reproduced project; edits of its code are taken back afterwards, and results restored from the cache."""
    yield few_heads
    few_heads.restore()


@pytest.fixture(scope="module", autouse=True)
def digests_of_the_restored_code(few_heads):
    yield
    few_heads.dvc("repro")


def test_a_changed_comment_docstring_or_line_break_anywhere_runs_no_stage(edited):
    number = 0
    for folder in ("longtail", "stages"):
        for file in (edited.folder / folder).rglob("*.py"):
            text = file.read_text()
            if '"""' in text:
                text = text.replace('"""', '"""Other words. ', 1)
            text = re.sub(r"^(def |class )", r"# A comment.\n\n\n\n\1", text, flags=re.MULTILINE)
            file.write_text(text + "\n# The end.\n")
            number += 1
    assert number > 100
    edit(edited, "longtail/methods/heads/tau.py", '"largest tau of the grid"', '"the largest one"')
    assert stages_run(edited.dvc("repro")) == []


def test_a_changed_objective_that_is_not_chosen_runs_no_stage(edited):
    edit(edited, "longtail/methods/objectives/fsgl/objective.py", "alpha * plain", "alpha * 2 * plain")
    assert stages_run(edited.dvc("repro")) == []


def test_a_changed_formula_of_tau_runs_tau_and_evaluate_alone(edited):
    edit(edited, "longtail/methods/heads/tau.py", "** grid[:, None]", "** (grid[:, None] + 0.01)")
    assert stages_run(edited.dvc("repro")) == ["rebalance@tau", "evaluate"]


def test_changed_code_of_evaluate_retrains_nothing(edited):
    edit(edited, "longtail/evaluation/metrics.py", "ECE_BINS = 15", "ECE_BINS = 14")
    assert sorted(stages_run(edited.dvc("repro"))) == ["evaluate", "evaluate_backbone"]


def test_a_changed_function_that_training_reaches_runs_it_again(edited):
    edit(edited, "longtail/augment/crops.py", "images.shape[1] / 8", "images.shape[1] / 4")
    run = stages_run(edited.dvc("repro", "rebalance@joint"))
    assert run[0] == "train_backbone"
    assert not {"prepare", "subsample"} & set(run)


def test_exp_run_and_a_single_stage_notice_changed_code(edited):
    edit(edited, "longtail/methods/heads/ncm.py", "CACHED_BYTES = 2**20", "CACHED_BYTES = 2**19")
    assert stages_run(edited.dvc("exp", "run", "rebalance@ncm")) == ["rebalance@ncm"]
    edit(edited, "longtail/methods/heads/ncm.py", "CACHED_BYTES = 2**19", "CACHED_BYTES = 2**18")
    assert stages_run(edited.dvc("repro", "rebalance@ncm")) == ["rebalance@ncm"]


def test_a_single_item_run_with_a_stale_digest_is_refused(edited):
    """``--single-item`` skips the first stage, so the stage itself compares the digest with its code."""
    edit(edited, "longtail/methods/heads/ncm.py", "CACHED_BYTES = 2**20", "CACHED_BYTES = 2**19")
    output = edited.dvc("repro", "--single-item", "--force", "rebalance@ncm", check=False)
    assert "error: .fingerprints/rebalance_ncm must be the digest of the code and parameters at hand" in output
    assert "without --single-item" in output and "Traceback" not in output


def test_a_queued_sweep_runs_beside_the_workspace_and_computes_its_digests_itself(edited):
    before = (edited.folder / "metrics/summary.json").read_bytes()
    edit(edited, "longtail/methods/heads/tau.py", "** grid[:, None]", "** (grid[:, None] + 0.5)")
    queued = edited.dvc("exp", "run", "--queue", "-S", "crt.epochs=4,5")
    names = re.findall(r"Queued experiment '([^']+)'", queued)
    assert len(names) == 2, queued
    edited.dvc("queue", "start", "--jobs", "1")
    status = edited.wait_for_queue()
    assert "Failed" not in status and status.count("Success") >= 2, status
    ran = [set(stages_run(edited.dvc("queue", "logs", name))) for name in names]
    assert all("rebalance@crt" in stages and "train_backbone" not in stages for stages in ran), ran
    assert "rebalance@tau" in set.union(*ran), "the second run may take it from the cache of the first"
    assert (edited.folder / "metrics/summary.json").read_bytes() == before
    rows = [line.split(",") for line in edited.dvc("exp", "show", "--csv").splitlines() if line]
    column = rows[0].index("crt.epochs")
    assert {"4", "5"} <= {row[column] for row in rows[1:]}


def test_experiments_show_one_column_per_stage_and_no_source_file(few_heads):
    shown = few_heads.dvc("exp", "show", "--csv").splitlines()[0].split(",")
    assert not [name for name in shown if name.endswith(".py")]
    digests = [name for name in shown if name.startswith(".fingerprints")]
    assert len(digests) == 9 + len(FEW_HEADS)


def add_the_head(folder):
    """The three edits. Returns the files that they touched."""
    (folder / "longtail/methods/heads/shrunken.py").write_text(MODULE)
    with open(folder / "params.yaml", "a") as params:
        params.write(GROUP)
    dag = (folder / "dvc.yaml").read_text()
    assert dag.count("      - tau\n") == 1
    (folder / "dvc.yaml").write_text(dag.replace("      - tau\n", f"      - tau\n{LINE}"))
    return {"longtail/methods/heads/shrunken.py", "params.yaml", "dvc.yaml"}


def test_a_head_added_by_the_docs_has_its_row_in_the_table(few_heads):
    """docs/adding-a-method.md, followed to the letter."""
    before = json.loads((few_heads.folder / "metrics/summary.json").read_text())
    try:
        touched = add_the_head(few_heads.folder)
        output = few_heads.dvc("repro")
        assert stages_run(output) == ["rebalance@shrunken", "evaluate"]
        (row,) = (line for line in output.splitlines() if line.startswith("shrunken "))
        assert len(row.split()) == 7
        after = json.loads((few_heads.folder / "metrics/summary.json").read_text())
        assert set(after) == {*before, "shrunken"}
        assert {name: after[name] for name in before} == before
        changed = few_heads.call("git", "status", "--porcelain", "--", ".", ":!metrics", ":!dvc.lock")
        assert {line[3:] for line in changed.splitlines()} == touched
        refused = few_heads.dvc("exp", "run", "-S", "shrunken.amount=2", check=False)
        assert "error: shrunken.amount must be at least 0 and at most 1, got 2" in refused
    finally:
        for made in ("models/heads/shrunken.h5", "metrics/predictions/shrunken.h5"):
            (few_heads.folder / made).unlink(missing_ok=True)
        few_heads.restore()
    assert stages_run(few_heads.dvc("repro")) == []
    assert not (few_heads.folder / ".fingerprints/rebalance_shrunken").exists(), "its stage is gone"
    assert few_heads.call("git", "status", "--porcelain") == ""
