"""dvc.yaml against the code, and the direction of imports."""

import subprocess
import sys

import pytest

from longtail.core.yaml import read_yaml
from longtail.methods.heads import HEADS
from longtail.methods.stage_methods import STAGE_METHODS
from longtail.params import defaults
from stages.check import stages_of
from stages.fingerprints import Sources
from tests.imports import ROOT, all_modules

DAG = read_yaml(ROOT / "dvc.yaml")["stages"]
PLOTS = read_yaml(ROOT / "metrics" / "dvc.yaml")["plots"]
LAYERS = ("core", "artifacts", "data", "augment", "models", "train", "evaluation", "methods")
ABOVE = ("longtail.params",)  # reads the declarations of all layers
NO_TORCH = ("check", "prepare", "subsample", "evaluate", "rebalance", "table", "recipe", "context", "paths")


def layer_of(module: str) -> int:
    if module.split(".")[0] == "stages":
        return len(LAYERS) + 1
    if module in ABOVE:
        return len(LAYERS)
    return LAYERS.index(module.split(".")[1])


def test_imports_point_down():
    sources = Sources(None)
    for module in all_modules():
        if module == "longtail":
            assert not sources.imports(module)
            continue
        for other in sources.imports(module):
            assert other == "longtail" or layer_of(other) <= layer_of(module), (
                f"{module} imports {other}, a layer above"
            )


def test_every_package_mirrors_in_tests():
    packages = {path.parent.relative_to(ROOT / "longtail") for path in (ROOT / "longtail").rglob("__init__.py")}
    for folder in (ROOT / "tests" / "unit").rglob("test_*.py"):
        path = folder.parent.relative_to(ROOT / "tests" / "unit")
        assert path in packages or str(path) == "stages", f"{folder} tests no package"
    top = {path.parts[0] for path in packages if path.parts}
    assert top == set(LAYERS)
    assert all(list((ROOT / "tests" / "unit" / name).rglob("test_*.py")) for name in top)


@pytest.mark.parametrize("module", NO_TORCH)
def test_stages_that_need_no_torch_do_not_import_it(module):
    code = f"import sys, stages.{module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_every_stage_depends_on_its_code_by_the_digest_alone():
    for name, stage in DAG.items():
        body = stage.get("do", stage)
        deps = body.get("deps", [])
        assert not [dep for dep in deps if dep.endswith(".py") or dep.split("/")[0] in ("longtail", "stages")]
        if name != "check":
            digest = f".fingerprints/{name}" + ("_${item}" if "foreach" in stage else "")
            assert [dep for dep in deps if dep.startswith(".fingerprints")] == [digest], name


def test_check_is_the_only_stage_that_always_runs_and_writes_a_digest_for_every_other():
    assert [name for name, stage in DAG.items() if "always_changed" in stage.get("do", stage)] == ["check"]
    items = {name for name, stage in DAG.items() if "foreach" not in stage} - {"check"}
    items |= {f"{name}@{item}" for name, stage in DAG.items() for item in stage.get("foreach", [])}
    assert {f"{name}@{argument}" if argument else name for name, argument in stages_of({"stages": DAG})} == items


def test_dag_runs_every_registered_method():
    assert sorted(DAG["rebalance"]["foreach"]) == HEADS.available()
    assert {entry.stage for entry in STAGE_METHODS.entries().values()} <= set(DAG)


def test_listed_parameters_exist():
    known = defaults()
    for name, stage in DAG.items():
        for key in stage.get("do", stage).get("params", []):
            for filled in [key.replace("${item}", item) for item in stage.get("foreach", [""])]:
                group = known
                for part in filled.split("."):
                    assert part in group, f"{name} lists {filled}, which is no parameter"
                    group = group[part]


def test_outputs_are_made_once_and_inputs_are_outputs():
    def expand(stage: dict, kind: str) -> list[str]:
        entries = stage.get("do", stage).get(kind, [])
        names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]
        return [name.replace("${item}", item) for name in names for item in stage.get("foreach", [""])]

    made = [name for stage in DAG.values() for kind in ("outs", "metrics") for name in expand(stage, kind)]
    assert len(set(made)) == len(made)
    for name, stage in DAG.items():
        for dep in expand(stage, "deps"):
            parents = [out for out in made if dep == out or dep.startswith(f"{out}/") or out.startswith(f"{dep}/")]
            assert parents, f"{name} needs {dep}, which no stage makes"


def test_dag_is_short():
    lines = sum(len((ROOT / name).read_text().splitlines()) for name in ("dvc.yaml", "metrics/dvc.yaml"))
    assert lines < 250
    assert PLOTS
