"""``dvc`` and one stage of each kind as processes of their own, as users run them: no warm commands (tests/warm.py)."""

import shutil

import yaml

from tests.pipeline.conftest import stages_run


def test_plain_commands_run_every_kind_of_stage_and_give_the_bytes_of_warm_ones(reproduced, clone):
    other = clone(reproduced, plain=True)
    dag = yaml.safe_load((other.folder / "dvc.yaml").read_text())["stages"]
    kinds = [f"{name}@{next(iter(stage['foreach']))}" if "foreach" in stage else name for name, stage in dag.items()]
    ran = stages_run(other.dvc("repro", *(kind for kind in kinds if kind != "evaluate")))
    shutil.copytree(reproduced.folder / "metrics", other.folder / "metrics", dirs_exist_ok=True)
    shutil.rmtree(other.folder / "metrics/plots")
    shutil.copytree(reproduced.folder / "models", other.folder / "models", dirs_exist_ok=True)
    ran += stages_run(other.dvc("repro", "-s", "evaluate"))
    assert {"check", *ran} == set(kinds)
    warm, plain = (yaml.safe_load((p.folder / "dvc.lock").read_text())["stages"] for p in (reproduced, other))
    for kind in kinds:
        assert plain[kind]["outs"] == warm[kind]["outs"], kind
