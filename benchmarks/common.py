"""Shared by the benchmark scripts: a description of the machine, and pipeline runs in separate folders, without DVC."""

import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from longtail.core.yaml import parse_yaml
from longtail.methods.heads import HEADS
from longtail.methods.stage_methods import STAGE_METHODS
from longtail.params import check_params
from stages.recipe import assign, parse_setting

ROOT = Path(__file__).parent.parent
STAGES = ("prepare", "subsample", "pretrain", "train_backbone", "extract_features")
METHODS = (*HEADS.names(), *(row for method in STAGE_METHODS.entries().values() for row in method.rows))


def machine(*packages: str) -> str:
    """Describe the machine in one line: processor, cores, GPU, Python and package versions, date."""
    from importlib.metadata import version

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].split(":")[1].strip() if names else cpu
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    python = platform.python_version()
    return f"{cpu}, {os.cpu_count()} cores, {_gpu()}, Python {python}, {versions}, {time.strftime('%F')}"


def _gpu() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return "no GPU"


def override(params: dict[str, Any], settings: list[str]) -> None:
    """Apply ``group.key=value`` settings in place. Values are YAML."""
    for setting in settings:
        assign(params, *parse_setting(setting))


def write_params(folder: Path, settings: list[str]) -> None:
    """Write the repository's params.yaml, with ``settings`` applied, to ``folder``.

    Raises:
        ConfigError: a setting is not valid. Nothing is written.
    """
    params = parse_yaml((ROOT / "params.yaml").read_text())
    override(params, settings)
    check_params(params)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))


def run_stage(folder: Path, *command: str) -> float:
    """Run ``python -m stages.COMMAND`` in ``folder``. Return seconds of wall time. Its output goes to stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    command_line = [sys.executable, "-m", f"stages.{command[0]}", *command[1:]]
    subprocess.run(command_line, cwd=folder, env=environment, check=True, stdout=sys.stderr)
    return time.perf_counter() - start


def run_pipeline(folder: Path, settings: list[str]) -> dict[str, Any]:
    """Run all stages in ``folder``. Return the summary and, under ``seconds``, the wall time of each stage.

    Stages that have finished in ``folder`` with the same parameters are skipped.
    """
    write_params(folder, settings)
    finished = folder / "finished.json"
    params = (folder / "params.yaml").read_text()
    previous = json.loads(finished.read_text()) if finished.is_file() else {}
    seconds: dict[str, float] = previous["seconds"] if previous.get("params") == params else {}
    heads = [f"rebalance@{name}" for name in HEADS.names()]
    own_stages = [method.stage for method in STAGE_METHODS.entries().values()]
    for stage in (*STAGES, *heads, *own_stages, "evaluate"):
        if stage not in seconds:
            seconds[stage] = run_stage(folder, *stage.split("@"))
            finished.write_text(json.dumps({"params": params, "seconds": seconds}))
    return {"summary": json.loads((folder / "metrics/summary.json").read_text()), "seconds": seconds}
