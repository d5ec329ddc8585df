"""The code and the parameters that each stage uses are those that dvc compares for it."""

import importlib

import pytest

from longtail.augment.policies import POLICIES
from longtail.core.params import keys_of
from longtail.core.yaml import read_yaml
from longtail.data.sources import SOURCES
from longtail.methods.heads import HEADS
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.pretraining import METHODS as PRETRAINING
from longtail.methods.stage_methods import STAGE_METHODS
from stages import context
from stages.check import entry_modules
from stages.fingerprints import Sources
from tests.conftest import write_params
from tests.imports import ROOT

DAG = read_yaml(ROOT / "dvc.yaml")["stages"]
UNTRACKED = {"data_root", "runtime"}  # where files are, and how to compute; `prepare` alone depends on data_root
# Single keys of a group.
READ_ASIDE = {"pretrain": {"train.backbone", "train.width", "image_size"}}
REGISTRIES = (HEADS, OBJECTIVES, PRETRAINING, POLICIES, SOURCES, STAGE_METHODS)
DECLARATIONS = {registry.module(name) for registry in REGISTRIES for name in registry.available()}
CHANGES = {
    "defaults": {},
    "pretraining and images": {
        "pretrain": {"method": "bns"},
        "train": {"objective": "paco", "sampler": "square_root"},
        "crt": {"mode": "online"},
        "lws": {"mode": "online"},
        "ipdpp": {"sampler": "feature_kdpp"},
    },
    "two views": {
        "train": {"objective": "fsgl", "rule": "resample", "augment": "cutout"},
        "pretrain": {"method": "moco"},
    },
    "linear probe": {
        "pretrain": {"method": "simsiam"},
        "train": {"trainable": "head", "rule": "reweight"},
    },
}


def listed(stage: str, argument: str) -> set[str]:
    """The parameters that dvc.yaml lists for a stage."""
    body = DAG[stage].get("do", DAG[stage])
    return {key.replace("${item}", argument) for key in body.get("params", [])}


def chosen(stage: str, argument: str, content: dict) -> set[str]:
    """Modules of the methods that a stage uses."""
    if stage == "prepare":
        return {SOURCES.module(content["dataset"])}
    if stage == "rebalance":
        return {HEADS.module(argument)}
    if stage == "pretrain" and content["pretrain"]["method"] != "none":
        return {PRETRAINING.module(content["pretrain"]["method"])}
    if stage == "train_backbone":
        policy = content["train"]["augment"]
        return {
            OBJECTIVES.module(content["train"]["objective"]),
            POLICIES.module("crop" if policy == "auto" else policy),
        }
    if stage == "evaluate":
        return {HEADS.module(name) for name in HEADS.available()}
    return set()


@pytest.fixture
def record(monkeypatch, stage):
    """Run a stage; gives the modules that it imported by name and the parameters that it took."""

    def run(name: str, *arguments: str) -> tuple[set[str], set[str]]:
        modules: set[str] = set()
        taken: set[str] = set()
        imported, used = importlib.import_module, context.Context._used

        def import_module(module: str, package: str | None = None) -> object:
            if module.split(".")[0] in ("longtail", "stages"):
                modules.add(module)
            return imported(module, package)

        def keep(self: context.Context, group: object) -> object:
            if group is not None:
                path = getattr(group, "path", "")
                taken.update([path.split(".")[0]] if path else keys_of(type(group)))
            return used(self, group)

        with monkeypatch.context() as patched:
            patched.setattr(context, "check_file", lambda content: None)
            patched.setattr(context, "stage_digest", lambda *words: "")
            patched.setattr(context.Context, "_used", keep)
            main = importlib.import_module(f"stages.{name}").main
            patched.setattr(importlib, "import_module", import_module)
            main(*arguments)
        return modules, taken

    return run


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_every_stage_reaches_the_code_of_its_digest_and_takes_the_parameters_that_dvc_compares(
    tmp_path, record, changes
):
    write_params(tmp_path, changes)
    content = read_yaml(tmp_path / "params.yaml")
    sources = Sources(None)
    for name, stage in DAG.items():
        for argument in stage.get("foreach", [""] if name != "check" else []):
            modules, taken = record(name, *filter(None, [argument]))
            known = set(sources.closure(entry_modules(name, argument, content)))
            reached = modules - DECLARATIONS  # those are read for the names of all methods, to check parameters
            assert reached <= known, f"{name} {argument} imports {sorted(reached - known)}"
            assert chosen(name, argument, content) <= known, name
            compared = listed(name, argument)
            assert taken - compared <= UNTRACKED, f"{name} {argument} takes {sorted(taken - compared)}"
            unused = compared - taken - READ_ASIDE.get(name, set())
            if not changes:
                assert unused <= {"normalize", "crop"}, f"dvc.yaml lists {sorted(unused)} for {name} {argument}"
            assert name == "prepare" or "data_root" not in compared


def test_code_of_own_features_counts_for_them_alone():
    """A change of it re-runs no stage of a dataset of images."""
    sources = Sources(None)
    for dataset in SOURCES.available():
        content = {"dataset": dataset, "data_root": "x", "lists": {"train": "a", "test": "b"}}
        for name, stage in DAG.items():
            for argument in stage.get("foreach", [""] if name != "check" else []):
                known = sources.closure(entry_modules(name, argument, content))
                expected = dataset == "features" and name == "extract_features"
                assert ("stages.own_features" in known) == expected, (dataset, name)


@pytest.mark.parametrize(("head", "expected"), [("none", True), ("file", False)])
def test_code_of_the_base_head_counts_where_one_is_fitted(head, expected):
    content = {"train": {"frozen": True}, "pretrain": {"method": "weights", "weights": "a.pth", "head": head}}
    known = Sources(None).closure(entry_modules("extract_features", "", content))
    assert ("stages.base_head" in known) == expected
    assert ("longtail.methods.heads.softmax_solver" in known) == expected
