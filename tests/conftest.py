"""Shared fixtures: one thread for everything, real data where it is at hand, and stages run inside this process."""

import logging
import os
import pickle
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

import longtail.core.yaml
from longtail.methods.heads import HEADS
from longtail.methods.stage_methods import STAGE_METHODS
from tests.imports import ROOT

# Temporary files stay in memory where there is much of it, and nothing is flushed: no test cuts the power.
if Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > 4 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", "/dev/shm")
os.fsync = lambda number: None

_parse, _parsed = longtail.core.yaml.parse_yaml, {}


def _parse_once(text: str, name: str = "text") -> Any:
    if text not in _parsed:
        _parsed[text] = pickle.dumps(_parse(text, name))
    return pickle.loads(_parsed[text])  # noqa: S301 - our own


longtail.core.yaml.parse_yaml = _parse_once  # the parser is slow pure Python, and stages read the same few texts

SHARED_DATA = ROOT.parent / "shared" / "data"
FAST = {
    "train": {"epochs": 2, "batch_size": 32},
    "crt": {"epochs": 2, "batch_size": 32},
    "lws": {"epochs": 2, "batch_size": 32},
    "cosine": {"epochs": 2},
    "los": {"epochs": 2},
    "max_norm": {"epochs": 2},
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


def write_params(folder: Path, *changes: dict, heads: tuple[str, ...] = HEAD_NAMES) -> None:
    """The repository's params.yaml with fast settings and ``changes``, for code that has ``heads`` alone."""
    params = merged(default_params(), FAST)
    method = next(
        (change["pretrain"]["method"] for change in reversed(changes) if "method" in change.get("pretrain", {})), "none"
    )
    faster = [FAST_PRETRAINING] * (method not in ("none", "weights"))
    for change in [*faster, SMALL_PROJECTORS.get(method, {}), *changes]:
        params = merged(params, change)
    params = {name: value for name, value in params.items() if name in heads or name not in HEAD_NAMES}
    (folder / "params.yaml").write_text(yaml.dump(params, Dumper=yaml.CSafeDumper))


@cache
def default_params() -> dict:
    return yaml.load((ROOT / "params.yaml").read_text(), yaml.CSafeLoader)


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


def run_all(stage: Callable[..., None], last: str = "evaluate") -> None:
    """Run every stage up to ``last``."""
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


_RUNS: dict[tuple[str, str], Path] = {}


@pytest.fixture
def pipeline(stage: Callable[..., None], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """Run every stage up to ``last``, and fill the empty working folder with that.

    Stages give the same bytes in every folder. So what the same parameters gave before is copied, unless they name
    files of the test.
    """

    def run(last: str = "evaluate") -> None:
        params = (tmp_path / "params.yaml").read_text()
        key = (params, last)
        if str(tmp_path) in params:
            run_all(stage, last)
        elif key in _RUNS:
            shutil.copytree(_RUNS[key], tmp_path, dirs_exist_ok=True)
        else:
            run_all(stage, last)
            _RUNS[key] = shutil.copytree(tmp_path, tmp_path_factory.mktemp("run"), dirs_exist_ok=True)

    return run
