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

from longtail.core.config import load_params, parse_yaml

ROOT = Path(__file__).parent.parent
STAGES = ("prepare", "subsample", "pretrain", "train_backbone", "extract_features")
REPAIRS = ("joint", "ncm", "crt", "tau", "lws", "logit_adjustment")
METHODS = (*REPAIRS, "dlsa_control", "dlsa", "ipdpp_uniform", "ipdpp")


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
        key, _, value = setting.partition("=")
        *groups, last = key.split(".")
        target = params
        for group in groups:
            target = target.setdefault(group, {})
        target[last] = parse_yaml(value)


def write_params(folder: Path, settings: list[str]) -> None:
    """Write the repository's params.yaml, with ``settings`` applied, to ``folder``."""
    params = parse_yaml((ROOT / "params.yaml").read_text())
    override(params, settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    load_params(folder / "params.yaml")


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
    for stage in (*STAGES, *(f"rebalance@{method}" for method in REPAIRS), "train_dlsa", "finetune_ipdpp", "evaluate"):
        if stage not in seconds:
            seconds[stage] = run_stage(folder, *stage.split("@"))
            finished.write_text(json.dumps({"params": params, "seconds": seconds}))
    return {"summary": json.loads((folder / "metrics/summary.json").read_text()), "seconds": seconds}
