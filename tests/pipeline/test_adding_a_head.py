"""docs/adding-a-method.md, followed to the letter in a copy of the repository."""

import json
import re

from tests.imports import ROOT
from tests.pipeline.conftest import stages_run

DOCUMENT = (ROOT / "docs" / "adding-a-method.md").read_text()
MODULE, GROUP, LINE = re.findall(r"```\w+\n(.*?)```", DOCUMENT, re.DOTALL)[:3]


def add_the_head(folder):
    """The three edits. Returns the files that they touched."""
    (folder / "longtail/methods/heads/shrunken.py").write_text(MODULE)
    with open(folder / "params.yaml", "a") as params:
        params.write(GROUP)
    dag = (folder / "dvc.yaml").read_text()
    assert dag.count("      - logit_adjustment\n") == 1
    (folder / "dvc.yaml").write_text(dag.replace("      - logit_adjustment\n", f"      - logit_adjustment\n{LINE}"))
    return {"longtail/methods/heads/shrunken.py", "params.yaml", "dvc.yaml"}


def test_a_head_added_by_the_docs_has_its_row_in_the_table(reproduced):
    before = json.loads((reproduced.folder / "metrics/summary.json").read_text())
    try:
        touched = add_the_head(reproduced.folder)
        output = reproduced.dvc("repro")
        assert stages_run(output) == ["rebalance@shrunken", "evaluate"]
        (row,) = (line for line in output.splitlines() if line.startswith("shrunken "))
        assert len(row.split()) == 7
        after = json.loads((reproduced.folder / "metrics/summary.json").read_text())
        assert set(after) == {*before, "shrunken"}
        assert {name: after[name] for name in before} == before
        changed = reproduced.call("git", "status", "--porcelain", "--", ".", ":!metrics", ":!dvc.lock")
        assert {line[3:] for line in changed.splitlines()} == touched
        refused = reproduced.dvc("exp", "run", "-S", "shrunken.amount=2", check=False)
        assert "error: shrunken.amount must be at least 0 and at most 1, got 2" in refused
    finally:
        for made in ("models/heads/shrunken.h5", "metrics/predictions/shrunken.h5"):
            (reproduced.folder / made).unlink(missing_ok=True)
        reproduced.restore()
    assert stages_run(reproduced.dvc("repro")) == []
    assert not (reproduced.folder / ".fingerprints/rebalance_shrunken").exists(), "its stage is gone"
    assert reproduced.call("git", "status", "--porcelain") == ""
