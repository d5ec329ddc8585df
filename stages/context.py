"""What all stages share: checked parameters, the device, scratch folders, cost, and how errors reach the user."""

import hashlib
import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from longtail.artifacts.atomic import atomic_open
from longtail.artifacts.scratch import Scratch
from longtail.artifacts.tables import write_json
from longtail.core.errors import ConfigError, LongtailError
from longtail.core.params import Group, bind, keys_of
from longtail.core.seeds import SeedParams
from longtail.core.yaml import read_yaml
from longtail.methods.implementation import bind_own
from longtail.train.params import RuntimeParams
from stages.fingerprints import Sources, everything
from stages.paths import COST, FINGERPRINTS, PARAMS, SCRATCH

if TYPE_CHECKING:
    import torch

    from longtail.core.registry import Registry

G = TypeVar("G", bound=Group)
CHECKED = SCRATCH / "checked.json"


class Context:
    """One run of a stage.

    Reads params.yaml and checks all of it before any work starts.

    Args:
        stage: name of the stage.
        argument: the method, for a stage that runs one of several.

    Raises:
        ConfigError: params.yaml is missing or not valid, or DVC runs the stage with a stale code digest.
    """

    def __init__(self, stage: str, argument: str = "") -> None:
        self.stage, self.argument = stage, argument
        self._start = time.perf_counter()
        self._groups: list[Group | None] = []
        self.content = read_yaml(PARAMS)
        check_file(self.content)
        _refuse_stale_digest(stage, argument, self.content)
        self.runtime = bind(RuntimeParams, self.content.get("runtime", {}))

    def top_level(self, kind: type[G]) -> G:
        """The group ``kind`` of top-level keys."""
        return self._used(bind(kind, {name: value for name, value in self.content.items() if name in keys_of(kind)}))

    def group(self, kind: type[G], others: "Registry[Any] | None" = None) -> G:
        """The named group ``kind``. ``others`` may hold further groups in it, which are passed over."""
        passed_over = others.available() if others is not None else ()
        return self._used(bind(kind, self.content.get(kind.path, {}), passed_over))

    def own(self, registry: "Registry[Any]", name: str, path: str) -> Group | None:
        """The own parameters of the method ``name`` in the group ``path``, or None."""
        return self._used(bind_own(registry, name, path, self.content.get(path, {})))

    def _used(self, group: Any) -> Any:
        self._groups.append(group)
        return group

    @property
    def seed(self) -> int:
        """The parameter ``seed``."""
        return self.top_level(SeedParams).seed

    @property
    def data_root(self) -> str | None:
        """Where image files are now. What they hold is in the manifest, so no stage but ``prepare`` depends on it."""
        return self.content.get("data_root")

    @cached_property
    def device(self) -> "torch.device":
        """The device that ``runtime`` asks for, set up for repeatable results."""
        from longtail.train.runtime import set_up

        return set_up(self.runtime)

    def scratch(self, inputs: Sequence[Any], name: str = "") -> Scratch:
        """The folder of unfinished work, found again only by a run that would compute the same.

        Args:
            inputs: digests of the input files and whatever else the result depends on beside parameters and code.
            name: further name, for a stage that keeps several.
        """
        from longtail.train.runtime import describe

        identity = {
            "params": repr(self._groups),
            "inputs": list(inputs),
            "code": stage_digest(self.stage, self.argument, self.content),
            "runtime": describe(self.runtime, self.device),
        }
        return Scratch(SCRATCH / "_".join(filter(None, (self.stage, self.argument, name))), identity)

    def write_cost(self, **numbers: float | int) -> None:
        """Write seconds, peak memory and further numbers to ``metrics/cost``, which DVC does not cache."""
        from longtail.train.runtime import peak_memory

        seconds = round(time.perf_counter() - self._start, 3)
        cost = {**numbers, "seconds": seconds, "peak_memory_bytes": peak_memory(self.device)}
        write_json(COST / f"{self.stage}.json", cost)


def check_file(content: Mapping[str, Any]) -> None:
    """Check all of params.yaml, unless this very content has passed with this very code.

    The modules that declare parameters are imported by name: they can refuse a run, but not change its results.
    """
    verdict = {"passed": hashlib.sha256((everything() + repr(content)).encode()).hexdigest()}
    if _read_verdict() == verdict:
        return
    importlib.import_module("longtail.params").check_params(content)
    importlib.import_module("stages.data_root").check_data_root(content)
    importlib.import_module("stages.backbone_size").check_backbone_size(content)
    with atomic_open(CHECKED) as file:
        file.write(json.dumps(verdict))


def _read_verdict() -> Any:
    try:
        return json.loads(CHECKED.read_text(encoding="utf-8")) if CHECKED.is_file() else None
    except ValueError:  # cut off: check again
        return None


def stage_digest(stage: str, argument: str, content: Mapping[str, Any]) -> str:
    """What ``check`` writes for a stage, computed for the code and files at hand."""
    check = importlib.import_module("stages.check")
    sources = Sources()
    digest: str = check.fingerprint(sources, stage, argument, content)
    sources.save()
    return digest


def fingerprint_file(stage: str, argument: str = "") -> Path:
    """Where ``check`` writes the digest of a stage."""
    return FINGERPRINTS / "_".join(filter(None, (stage, argument)))


def _refuse_stale_digest(stage: str, argument: str, content: Mapping[str, Any]) -> None:
    """Under DVC, refuse to run with a digest that is not that of the code at hand.

    DVC would record the results under the wrong code. It happens with ``--single-item``, which skips ``check``.
    """
    path = fingerprint_file(stage, argument)
    if "DVC_STAGE" not in os.environ or not path.is_file():
        return
    if path.read_text(encoding="utf-8").strip() != stage_digest(stage, argument, content):
        raise ConfigError(
            f"{path} must be the digest of the code and parameters at hand, got an older one; run "
            f"`dvc repro {os.environ['DVC_STAGE']}` without --single-item, or `python -m stages.check` first"
        )


def run(stage: Callable[[], None]) -> None:
    """Run a stage. An error that the user can fix becomes one line on stderr and exit status 1.

    Log messages of the library go to stdout.
    """
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("longtail")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        stage()
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command to resume from the last checkpoint, if there is one")
    except LongtailError as error:
        print(f"error: {advice(error)}", file=sys.stderr)
        sys.exit(1)


def advice(error: LongtailError) -> str:
    """The error as one line, with the command that makes a missing or unusable file."""
    sentence = " ".join(str(error).split())
    maker = getattr(error, "maker", None)
    if maker is None:
        return sentence
    if getattr(error, "missing", False):
        return f"{sentence}; make it with `dvc repro {maker}`"
    return f"{sentence}; make it again with `dvc repro -f {maker}`"
