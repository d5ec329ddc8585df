"""The runs of a study as DVC experiments.

Every run has a clone of the repository below ``.scratch/studies``, with its parameters in ``params.yaml`` and the cache
of the workspace. ``dvc exp run`` runs there, and the experiment is then fetched. So the workspace stays as it is, and
several runs go on at a time.

The name of an experiment holds a digest of its parameters and of the code that they reach. An experiment with that name
is finished, so nothing runs twice. The clone of a run that was killed stays, and the run goes on from its checkpoint.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longtail.core.errors import ConfigError, LongtailError
from longtail.core.yaml import read_yaml
from longtail.params import check_params, defaults
from stages.check import DAG, fingerprint
from stages.commands import environment
from stages.evaluate_backbone import BACKBONE_METRICS
from stages.fingerprints import Sources
from stages.paths import PARAMS, RAW, SCRATCH
from stages.recipe import assign

TARGET = "evaluate_backbone"
BEFORE_TRAINING = (("prepare", ""), ("subsample", ""), ("pretrain", ""))
STAGES = (*BEFORE_TRAINING, ("train_backbone", ""), ("extract_features", ""), ("rebalance", "joint"), (TARGET, ""))
CODE = ("longtail", "stages")  # new files here are part of a run even before they are committed
REPORT_EVERY = 30.0


@dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
        name: its name within the study, of letters, digits, ``-`` and ``.``.
        settings: the parameters that the study sets, by full name.
        facts: the columns that describe the run in the study's table.
    """

    name: str
    settings: Mapping[str, Any]
    facts: Mapping[str, Any] = field(default_factory=dict)


class FailedRunError(LongtailError):
    """A run ended with an error."""


class Experiments:
    """Runs a study.

    Args:
        study: its name.
        params: the parameters that all runs share, nested as in params.yaml.
        jobs: runs at a time.
    """

    def __init__(self, study: str, params: Mapping[str, Any], jobs: int = 1) -> None:
        self._study, self._params, self._jobs = study, params, jobs
        self._sources = Sources()
        self._children: set[subprocess.Popen[bytes]] = set()
        self._stopped = threading.Event()
        self._folder = (SCRATCH / "studies").absolute()

    def execute(self, runs: Sequence[Run]) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """Run what is not finished.

        Returns:
            The metrics of every finished run by its name, and a sentence for every run that failed.

        Raises:
            ConfigError: a run has parameters that are not valid, two have one name, or the folder is no git repository.
                Nothing has run.
        """
        contents = {run.name: self.content(run) for run in runs}
        if len(contents) < len(runs):
            raise ConfigError(f"a study must have different runs, got {len(runs) - len(contents)} repeated ones")
        names = {run.name: self._experiment_name(run.name, contents[run.name]) for run in runs}
        finished = finished_experiments()
        pending = [run for run in runs if names[run.name] not in finished]
        print(f"{self._study}: {len(runs)} runs, {len(runs) - len(pending)} finished before", flush=True)
        failures: list[str] = []
        if pending:
            self._cache = _dvc_cache()
            with _sigterm_interrupts():
                self._run_all(pending, contents, names, failures)
        self._sources.save()
        finished = finished_experiments()
        done = {run.name: read_metrics(finished[names[run.name]]) for run in runs if names[run.name] in finished}
        return done, failures

    def content(self, run: Run) -> dict[str, Any]:
        """All parameters of a run, checked. Without pretraining, its other keys go back to their defaults."""
        content: dict[str, Any] = json.loads(json.dumps(self._params))
        if run.settings.get("pretrain.method") == "none":
            content["pretrain"] = defaults()["pretrain"]
        for name, value in run.settings.items():
            assign(content, name, value)
        check_params(content)
        return content

    def _experiment_name(self, name: str, content: Mapping[str, Any]) -> str:
        values = {key: value for key, value in content.items() if key != "runtime"}
        return f"{self._study}-{name}-{self._digest(values, content, STAGES)}"

    def _pretraining(self, content: Mapping[str, Any]) -> str:
        """Digest of what the result of ``pretrain`` depends on. Its parameters are those that dvc.yaml names."""
        dag = read_yaml(DAG)["stages"]
        names = sorted({name for stage, _ in BEFORE_TRAINING for name in dag[stage]["params"]})
        return self._digest([(name, _value(content, name)) for name in names], content, BEFORE_TRAINING)

    def _digest(self, values: Any, content: Mapping[str, Any], stages: Sequence[tuple[str, str]]) -> str:
        """Of parameters, and of the code that the stages reach with them."""
        digests = [fingerprint(self._sources, stage, argument, content) for stage, argument in stages]
        text = json.dumps([values, digests], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:10]

    def _run_all(
        self, runs: Sequence[Run], contents: Mapping[str, Any], names: Mapping[str, str], failures: list[str]
    ) -> None:
        """Run them, at most ``jobs`` at a time. Of several with the same pretraining, one goes first."""
        start = last = time.monotonic()
        done = 0
        shared = {run.name: self._pretraining(contents[run.name]) for run in runs}
        pretrained: set[str] = {
            digest for name, digest in shared.items() if contents[name]["pretrain"]["method"] == "none"
        }
        waiting: dict[Future[dict[str, Any]], Run] = {}
        queue = list(runs)
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                while queue or waiting:
                    busy = {shared[run.name] for run in waiting.values()} - pretrained
                    ready = [run for run in queue if shared[run.name] not in busy]
                    if ready and len(waiting) < self._jobs:
                        run = ready[0]
                        queue.remove(run)
                        waiting[pool.submit(self._run_one, names[run.name], contents[run.name])] = run
                        continue
                    ended, _ = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
                    for future in ended:
                        run = waiting.pop(future)
                        done += 1
                        pretrained.add(shared[run.name])
                        result = self._outcome(run, future, failures)
                        left = _duration((time.monotonic() - start) / done * (len(runs) - done))
                        print(f"{self._study}: {done} of {len(runs)}, {run.name}: {result}; {left} left", flush=True)
                    if not ended and time.monotonic() - last >= REPORT_EVERY:
                        last = time.monotonic()
                        for run in waiting.values():
                            print(f"  {run.name}: {_last_line(self._log(names[run.name]))}", flush=True)
            except KeyboardInterrupt:
                self._stop()
                raise

    def _outcome(self, run: Run, future: Future[dict[str, Any]], failures: list[str]) -> str:
        try:
            measured = future.result()
        except FailedRunError as error:
            failures.append(f"{run.name} ({error})")
            return f"failed: {error}"
        return ", ".join(f"{key} {measured[key]:g}" for key in ("all", "macro") if key in measured)

    def _stop(self) -> None:
        """End the running experiments. They go on from their checkpoints with the next call."""
        self._stopped.set()
        for child in list(self._children):
            try:
                os.killpg(child.pid, signal.SIGINT)
            except ProcessLookupError:
                continue

    def _run_one(self, experiment: str, content: Mapping[str, Any]) -> dict[str, Any]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / f"{experiment}.lock", "w") as lock:
            # The process of dvc inherits the lock. So it is held until that process ends, even if this one is killed.
            fcntl.flock(lock, fcntl.LOCK_EX)
            clone = self._folder / experiment
            if experiment not in finished_experiments() and not self._fetch(experiment, clone):
                self._clone(clone, content)
                self._call_dvc(experiment, clone, content, lock.fileno())
                if not self._fetch(experiment, clone):
                    raise FailedRunError(f"DVC has made no experiment {experiment}; see {self._log(experiment)}")
            _remove(clone)
        return read_metrics(finished_experiments()[experiment])

    def _clone(self, clone: Path, content: Mapping[str, Any]) -> None:
        """A clone of the repository as it is, changes that are not committed included, with these parameters.

        Scratch of an earlier try is kept.
        """
        top, inside = _repository()
        root = clone / inside
        kept = self._folder / f"{clone.name}.scratch"
        if (root / SCRATCH).is_dir() and not kept.exists():
            (root / SCRATCH).rename(kept)
        _remove(clone)
        git("clone", "--quiet", "--shared", str(top), str(clone))
        changed = git("diff", "--name-only", "--relative", "-z", "HEAD").split("\0")
        added = git("ls-files", "--others", "--exclude-standard", "-z", "--", *CODE).split("\0")
        for name in filter(None, [*changed, *added]):
            if Path(name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(name, root / name)
            else:
                (root / name).unlink(missing_ok=True)
        (root / PARAMS).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")  # JSON is YAML
        local = Path(".dvc/config.local")
        settings = local.read_text(encoding="utf-8") if local.is_file() else ""
        (root / local).write_text(f"{settings}\n[cache]\n    dir = {self._cache}\n", encoding="utf-8")
        if RAW.is_dir():
            (root / RAW).parent.mkdir(exist_ok=True)
            (root / RAW).symlink_to(RAW.absolute())
        if kept.exists():
            kept.rename(root / SCRATCH)

    def _call_dvc(self, experiment: str, clone: Path, content: Mapping[str, Any], lock: int) -> None:
        if self._stopped.is_set():
            raise FailedRunError("stopped")
        threads = str(content.get("runtime", {}).get("threads", 1))
        log = self._log(experiment)
        with open(log, "wb") as file:
            child = subprocess.Popen(
                [sys.executable, "-m", "dvc", "exp", "run", "--name", experiment, TARGET],
                cwd=clone / _repository()[1],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment() | {"OMP_NUM_THREADS": threads},
                pass_fds=[lock],
                start_new_session=True,
            )
        self._children.add(child)
        status = child.wait()
        self._children.discard(child)
        if status:
            raise FailedRunError(f"{_error_line(log)}; see {log}")

    def _fetch(self, experiment: str, clone: Path) -> bool:
        """Bring the experiment of a clone into the repository. False if it has none."""
        if not (clone / ".git").is_dir():
            return False
        listed = git("-C", str(clone), "for-each-ref", "refs/exps", "--format=%(refname)").split()
        for reference in listed:
            if reference.split("/")[-1] == experiment:
                git("fetch", "--quiet", str(clone), f"+{reference}:{reference}")
                return True
        return False

    def _log(self, experiment: str) -> Path:
        return self._folder / f"{experiment}.log"


def _value(content: Any, name: str) -> Any:
    """The value of ``group.key``; None if it is left out."""
    for part in name.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return content


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM acts like Ctrl-C within the block."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def git(*arguments: str) -> str:
    """The output of a git command in the current folder.

    Raises:
        ConfigError: it fails, or git is missing.
    """
    try:
        ended = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise ConfigError("a study needs the command git, since DVC keeps its runs in a git repository") from error
    if ended.returncode:
        reason = (ended.stderr.strip().splitlines() or ["no message"])[0]
        raise ConfigError(f"git {arguments[0]} failed: {reason}")
    return ended.stdout


def _repository() -> tuple[Path, Path]:
    """The top folder of the git repository, and the current folder relative to it.

    Raises:
        ConfigError: there is none, or it has no commit.
    """
    try:
        top = Path(git("rev-parse", "--show-toplevel").strip()).resolve()
        git("rev-parse", "--verify", "HEAD^{commit}")
    except ConfigError as error:
        needed = "a study must run in a git repository with a commit, since DVC keeps its runs there"
        raise ConfigError(f"{needed} ({error})") from error
    return top, Path.cwd().resolve().relative_to(top)


def _remove(folder: Path) -> None:
    """Remove a folder, also while an orphaned process still writes below it."""
    if folder.exists():
        trash = folder.with_name(f"trash-{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}")
        folder.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)


def finished_experiments() -> dict[str, str]:
    """Revision of every DVC experiment, by name."""
    _repository()
    lines = git("for-each-ref", "refs/exps", "--format=%(objectname) %(refname)").splitlines()
    found = {}
    for line in lines:
        revision, _, reference = line.partition(" ")
        parts = reference.split("/")
        if len(parts) == 5:  # refs/exps/ab/cdef.../NAME
            found[parts[4]] = revision
    return found


def read_metrics(revision: str) -> dict[str, Any]:
    """``metrics/backbone.json`` of an experiment."""
    content: dict[str, Any] = json.loads(git("show", f"{revision}:./{BACKBONE_METRICS.as_posix()}"))
    return content


def _dvc_cache() -> str:
    ended = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ConfigError(f"the cache of DVC cannot be found: {ended.stderr.strip()}")
    return ended.stdout.strip()


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _lines(log: Path) -> list[str]:
    if not log.is_file():
        return []
    text = log.read_text(encoding="utf-8", errors="replace")
    return [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]


def _last_line(log: Path) -> str:
    return (_lines(log) or ["starting"])[-1]


def _error_line(log: Path) -> str:
    lines = _lines(log)
    ours = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (ours or [line for line in lines if line.startswith("ERROR")] or lines or ["no message"])[0]
