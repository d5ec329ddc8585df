"""dvc.yaml against the code: what a stage lists is what it imports, and imports point one way."""

import re
from pathlib import Path

import pytest
import yaml

from tests.imports import PACKAGES, ROOT, imported_by, reachable, source_of

DAG = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
LAYERS = (
    {"stages"},
    {
        "longtail.methods.objectives",
        "longtail.methods.heads",
        "longtail.evaluation",
        "longtail.methods.dlsa",
        "longtail.methods.ipdpp",
    },
    {"longtail.models", "longtail.data", "longtail.train", "longtail.data.sources"},
    {
        "longtail.artifacts",
        "longtail.core.config",
        "longtail.core.errors",
        "longtail.core.seeds",
        "longtail.core.progress",
    },
)


def all_modules() -> list[str]:
    files = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    names = (path.relative_to(ROOT).with_suffix("").parts for path in files)
    return [".".join(parts[:-1] if parts[-1] == "__init__" else parts) for parts in names]


def layer_of(module: str) -> int | None:
    top = module if module.split(".")[0] == "stages" else ".".join(module.split(".")[:2])
    top = "stages" if top.startswith("stages") else top
    return next((level for level, members in enumerate(LAYERS) if top in members), None)


def expanded() -> dict[str, tuple[str, list[str]]]:
    """Stage or stage@item -> (its command, its deps)."""
    stages = {}
    for name, stage in DAG.items():
        if "foreach" not in stage:
            stages[name] = (stage["cmd"], stage.get("deps", []))
            continue
        for key, item in stage["foreach"].items():
            values = {"${key}": key, **{f"${{item.{slot}}}": value for slot, value in item.items()}}

            def fill(text: str, values: dict[str, str] = values) -> str:
                for marker, value in values.items():
                    text = text.replace(marker, value)
                return text

            stages[f"{name}@{key}"] = (fill(stage["do"]["cmd"]), [fill(dep) for dep in stage["do"]["deps"]])
    return stages


STAGES = expanded()


@pytest.mark.parametrize("stage", STAGES)
def test_deps_cover_every_module_that_the_stage_imports_and_no_other(stage):
    command, deps = STAGES[stage]
    words = command.split()
    entries = [words[2]] + ([f"stages.repairs.{words[3]}"] if len(words) > 3 else [])
    needed = {str(source_of(module)) for module in reachable(*entries)}
    needed = {path for path in needed if not path.endswith("__init__.py")}
    code = {dep for dep in deps if dep.split("/")[0] in PACKAGES}
    listed = set()
    for dep in code:
        path = ROOT / dep
        files = (
            {str(f.relative_to(ROOT)) for f in path.rglob("*.py") if f.name != "__init__.py"}
            if path.is_dir()
            else {dep}
        )
        assert path.exists(), f"{stage} lists {dep}, which does not exist"
        assert files & needed, f"{stage} lists {dep}, which it does not import"
        listed |= files
    assert needed <= listed, f"{stage} does not list {sorted(needed - listed)}"
    assert listed <= needed, f"{stage} lists {sorted(listed - needed)}, which it does not import"


def test_imports_point_one_way():
    for module in all_modules():
        level = layer_of(module)
        if level is None:
            assert module == "longtail", f"{module} belongs to no layer"
            continue
        for other in imported_by(module):
            other_level = layer_of(other)
            assert other_level is not None and other_level >= level, f"{module} imports {other}, a layer above"


def test_package_inits_import_nothing_so_that_deps_stay_precise():
    for module in all_modules():
        if (ROOT / Path(*module.split("."))).is_dir():
            assert not imported_by(module), module


def test_stages_that_need_no_torch_do_not_reach_it():
    import subprocess
    import sys

    for module in ("stages.evaluate", "stages.subsample", "stages.prepare", "stages.rebalance", "stages.repairs.tau",
                   "stages.repairs.ncm", "stages.repairs.joint", "stages.repairs.crt", "stages.inputs"):  # fmt: skip
        code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0, module


def keys_read(module: str) -> set[str]:
    """Top-level parameters, and ``train.KEY`` for single keys, that a module takes from the parameters it is given."""
    source = (ROOT / str(source_of(module))).read_text()
    pattern = r"(?:\bp|\bparams\(\)|inputs\.params)\.(\w+)(?:\.(\w+))?"
    return {f"{group}.{key}" if group == "train" and key else group for group, key in re.findall(pattern, source)}


@pytest.mark.parametrize("stage", STAGES)
def test_params_cover_every_key_that_the_stage_reads_and_no_other(stage):
    words = STAGES[stage][0].split()
    modules = [words[2]] + ([f"stages.repairs.{words[3]}"] if len(words) > 3 else [])
    if stage in ("rebalance@crt", "rebalance@lws"):
        modules.append("stages.repairs.online")
    read = set().union(*map(keys_read, modules)) - {"runtime"}
    if stage != "prepare":
        read.discard("data_root")  # where the files lie now; what they hold is in the manifest
    template = DAG[stage.split("@")[0]]
    listed = {key.replace("${key}", words[-1]) for key in template.get("do", template).get("params", [])}
    whole_groups = {key.split(".")[0] for key in read if key.split(".")[0] in listed}
    read = {key for key in read if key.split(".")[0] not in whole_groups} | whole_groups
    if stage == "rebalance@joint":
        listed.discard("joint")  # an empty group: nothing to read, but every item lists its own
    assert read == listed
