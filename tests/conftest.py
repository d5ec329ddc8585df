"""Shared fixtures: one thread for everything, real data where it is at hand, and stages run inside this process."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.fsync = lambda number: None  # no test cuts the power, and a disk takes milliseconds for each flush

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from longtail.methods.heads import HEADS
from longtail.methods.stage_methods import STAGE_METHODS
from tests.imports import ROOT

SHARED_DATA = ROOT.parent / "shared" / "data"
FAST = {
    "train": {"epochs": 2, "batch_size": 32},
    "crt": {"epochs": 2, "batch_size": 32},
    "lws": {"epochs": 2, "batch_size": 32},
    "dlsa": {"epochs": 6, "flow_epochs": 3},
    "ipdpp": {"epochs": 4, "reselect_every": 2, "warmup_epochs": 0},
    "runtime": {"progress": "off", "device": "cpu", "workers": 0, "checkpoint_every": 1},
}
FAST_PRETRAINING = {"pretrain": {"epochs": 2, "warmup_epochs": 0}}
SMALL_PROJECTORS = {
    "bns": {"pretrain": {"bns": {"projector_hidden": 32, "projector_dim": 16}}},
    "simsiam": {"pretrain": {"simsiam": {"dim": 32}}},
}
HEAD_NAMES = tuple(HEADS.names())
METHODS = (*HEAD_NAMES, *(row for entry in STAGE_METHODS.entries().values() for row in entry.rows))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images and lists that lies beside some checkouts."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the data archives are not beside this checkout")
    return SHARED_DATA


def merged(base: dict, changes: dict) -> dict:
    """``base`` with ``changes`` laid over it, group by group."""
    result = dict(base)
    for key, value in changes.items():
        result[key] = (
            merged(result[key], value) if isinstance(value, dict) and isinstance(result.get(key), dict) else value
        )
    return result


def write_params(folder: Path, *changes: dict) -> None:
    """The repository's params.yaml with fast settings and ``changes``."""
    params = merged(yaml.safe_load((ROOT / "params.yaml").read_text()), FAST)
    method = next(
        (change["pretrain"]["method"] for change in reversed(changes) if "method" in change.get("pretrain", {})), "none"
    )
    faster = [FAST_PRETRAINING] * (method not in ("none", "weights"))
    for change in [*faster, SMALL_PROJECTORS.get(method, {}), *changes]:
        params = merged(params, change)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


class PrintingHandler(logging.Handler):
    """Prints log messages to stdout, as stages do."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record))


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """``stage("subsample")`` or ``stage("rebalance", "crt")`` runs in an empty folder, with errors as exceptions."""
    import importlib

    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)

    def run(name: str, *arguments: str) -> None:
        importlib.import_module(f"stages.{name}").main(*arguments)

    logger, handler = logging.getLogger("longtail"), PrintingHandler()
    before = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield run
    logger.removeHandler(handler)
    logger.setLevel(before)


@pytest.fixture
def pipeline(stage: Callable[..., None]) -> Callable[..., None]:
    """Run every stage up to ``last``."""

    def run(last: str = "evaluate") -> None:
        for name in ("prepare", "subsample", "pretrain", "train_backbone", "extract_features"):
            stage(name)
            if name == last:
                return
        for method in HEAD_NAMES:
            stage("rebalance", method)
        stage("train_dlsa")
        stage("finetune_ipdpp")
        if last == "evaluate":
            stage("evaluate")

    return run
