"""Folders in which stages can start, and a repository of its own for the tests through the real dvc."""

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import HEAD_NAMES, write_params
from tests.imports import ROOT
from tests.pipeline.helpers import BEFORE, write_image
from tests.warm import close_shared_commands, shared_commands

CARRIED = ("stages", "longtail", "dvc.yaml", "metrics/dvc.yaml", "params.yaml", ".dvcignore", ".gitignore",
           ".dvc/config", ".dvc/.gitignore", ".dvc/plots")  # fmt: skip
BIN = Path(sys.executable).parent


@dataclass
class Project:
    """A git and dvc repository. Its commands are warm ones (tests/warm.py) but where ``plain`` is asked for."""

    folder: Path
    plain: bool = False
    first_output: str = ""

    def environment(self) -> dict[str, str]:
        """That of the repository's commands."""
        first = [] if self.plain else [str(shared_commands().folder)]
        path = os.pathsep.join([*first, str(BIN), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        environment |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users' machines do write compiled modules
        environment |= {"GIT_COMMITTER_EMAIL": "t@t", "DVC_NO_ANALYTICS": "1", "DVC_STUDIO_OFFLINE": "1"}
        environment["DVC_SITE_CACHE_DIR"] = str(self.folder / ".dvc" / "tmp" / "site")
        return environment

    def call(self, *command: str, check: bool = True) -> str:
        """stdout and stderr of a command in the repository."""
        environment = self.environment()
        result = subprocess.run(
            [shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]],
            cwd=self.folder,
            env=environment,
            text=True,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        output = result.stdout + result.stderr
        assert not check or result.returncode == 0, output
        return output

    def dvc(self, *arguments: str, check: bool = True) -> str:
        return self.call("dvc", *arguments, check=check)

    def restore(self) -> None:
        """Take back all edits of tracked files, and remove files that git neither tracks nor ignores."""
        self.call("git", "checkout", "-q", ".")
        self.call("git", "clean", "-fdq")
        self.dvc("checkout", "--force")

    def wait_for_queue(self) -> str:
        """The status of the queue once nothing is left to run."""
        for _ in range(240):
            status = self.dvc("queue", "status")
            if "Running" not in status and "Queued" not in status:
                break
            time.sleep(0.5)
        return status

    def commit(self, message: str = "state") -> None:
        self.call("git", "add", "-A")
        self.call("git", "commit", "-qm", message)


@pytest.fixture(scope="session", autouse=True)
def end_of_warm_commands() -> Iterator[None]:
    yield
    close_shared_commands()


def stages_run(output: str) -> list[str]:
    """The stages that dvc executed, in order, without ``check``, which always runs."""
    ran = [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]
    return [stage for stage in ran if stage != "check"]


def copy_code(folder: Path, heads: tuple[str, ...] = HEAD_NAMES) -> Project:
    """The repository's code as a repository of its own, and nothing committed yet. It has ``heads`` alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in CARRIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    dag = (folder / "dvc.yaml").read_text()
    for name in set(HEAD_NAMES) - set(heads):
        (folder / f"longtail/methods/heads/{name}.py").unlink()
        dag = dag.replace(f"      - {name}\n", "")
    (folder / "dvc.yaml").write_text(dag)
    project = Project(folder)
    project.call("git", "init", "-q", "-b", "main")
    return project


FEW_HEADS = ("joint", "ncm", "crt", "tau", "softmax_regression")  # DLSA starts from the last
SHORT = {"dlsa": {"epochs": 2, "flow_epochs": 1}, "ipdpp": {"epochs": 2, "reselect_every": 1}}


def reproduce(folder: Path, heads: tuple[str, ...], *changes: dict) -> Project:
    """The pipeline with ``heads`` after one ``dvc repro``, committed."""
    project = copy_code(folder, heads)
    write_params(folder, *changes, heads=heads)
    project.commit("code")
    project.first_output = project.dvc("repro")
    project.commit("reproduced")
    return project


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The whole pipeline, reproduced. Shared: tests leave its parameters as they were."""
    return reproduce(tmp_path_factory.mktemp("project"), HEAD_NAMES)


@pytest.fixture(scope="session")
def few_heads(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The pipeline with a few heads, reproduced: a stage more costs dvc a second. Shared like ``reproduced``."""
    return reproduce(tmp_path_factory.mktemp("few_heads"), FEW_HEADS, SHORT)


@pytest.fixture
def clone(tmp_path: Path) -> Callable[..., Project]:
    """A git clone of a project: no cache, no outputs but those in git."""

    def make(project: Project, plain: bool = False) -> Project:
        project.call("git", "clone", "-q", str(project.folder), str(tmp_path / "clone"))
        return Project(tmp_path / "clone", plain)

    return make


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    """Four classes, naturally long-tailed, files of unequal size, test not balanced."""
    root = tmp_path / "images"
    for label, (train, test) in enumerate([(24, 6), (12, 4), (6, 3), (2, 2)]):
        for part, count in (("train", train), ("test", test)):
            for number in range(count):
                name = root / part / f"class {label}" / f"{number:03d}.jpg"
                write_image(name, label, number + 1000 * (part == "test"), (40 + number % 3, 44))
    return root


@pytest.fixture
def list_root(image_root: Path) -> Path:
    for part in ("train", "test"):
        rows = [
            f"{path.relative_to(image_root).as_posix()} {label}"
            for label in range(4)
            for path in sorted((image_root / part / f"class {label}").iterdir())
        ]
        (image_root / f"{part}.txt").write_text("\n".join(rows) + "\n")
    return image_root


@pytest.fixture(scope="session")
def digits_with_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with every stage but ``train_dlsa`` and ``evaluate``, made once."""
    folder = tmp_path_factory.mktemp("digits")
    write_params(folder)
    with contextlib.chdir(folder):
        for name in ("prepare", "subsample", "pretrain", "train_backbone", "extract_features"):
            importlib.import_module(f"stages.{name}").main()
        for method in HEAD_NAMES:
            importlib.import_module("stages.rebalance").main(method)
        importlib.import_module("stages.finetune_ipdpp").main()
    return folder


@pytest.fixture
def with_heads(tmp_path, stage, digits_with_heads: Path) -> Path:
    """The working folder, in which ``train_dlsa`` can start and ``evaluate`` after it."""
    shutil.copytree(digits_with_heads, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture(scope="session")
def trained_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits with every stage up to ``extract_features``, made once."""
    folder = tmp_path_factory.mktemp("digits")
    write_params(folder, {"train": {"epochs": 10}})
    with contextlib.chdir(folder):
        for name in BEFORE:
            importlib.import_module(f"stages.{name}").main()
    return folder


@pytest.fixture
def trained(tmp_path, stage, trained_digits: Path) -> Path:
    """The working folder, in which ``finetune_ipdpp`` can start."""
    shutil.copytree(trained_digits, tmp_path, dirs_exist_ok=True)
    return tmp_path
