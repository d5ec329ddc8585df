"""A repository of its own for the tests through the real dvc: the code of this checkout, fast parameters, one repro."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import write_params
from tests.imports import ROOT

CARRIED = ("stages", "longtail", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore", ".dvc/config",
           ".dvc/.gitignore", ".dvc/plots")  # fmt: skip
BIN = Path(sys.executable).parent


@dataclass
class Project:
    """A git and dvc repository."""

    folder: Path

    def call(self, *command: str, check: bool = True) -> str:
        """stdout and stderr of a command in the repository."""
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        environment |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # users' machines do write compiled modules
        environment |= {"GIT_COMMITTER_EMAIL": "t@t", "DVC_NO_ANALYTICS": "1", "DVC_STUDIO_OFFLINE": "1"}
        result = subprocess.run(
            command,
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

    def commit(self, message: str = "state") -> None:
        self.call("git", "add", "-A")
        self.call("git", "commit", "-qm", message)


def stages_run(output: str) -> list[str]:
    """The stages that dvc executed, in order."""
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")]


def copy_code(folder: Path) -> Project:
    folder.mkdir(parents=True, exist_ok=True)
    for name in CARRIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    project = Project(folder)
    project.call("git", "init", "-q", "-b", "main")
    return project


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The pipeline after one ``dvc repro``, committed. Shared: tests leave its parameters as they were."""
    project = copy_code(tmp_path_factory.mktemp("project"))
    write_params(project.folder)
    project.commit("code")
    project.first_output = project.dvc("repro")  # type: ignore[attr-defined]
    project.commit("reproduced")
    return project


@pytest.fixture
def clone(tmp_path: Path) -> Callable[[Project], Project]:
    """A git clone of a project: no cache, no outputs but those in git."""

    def make(project: Project) -> Project:
        project.call("git", "clone", "-q", str(project.folder), str(tmp_path / "clone"))
        return Project(tmp_path / "clone")

    return make
