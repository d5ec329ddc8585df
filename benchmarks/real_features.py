"""All methods on features of real images: ``python -m benchmarks.real_features --archive FILE --weights FILE``.

The archive (``NAME/train/CLASS/*.jpg``, ``NAME/test/CLASS/*.jpg``) is unpacked, and the stages run on it with the
recipe ``own_images_pretrained``: a frozen, pretrained backbone, every image once. The features are extracted and the
base head is fitted once. Each seed then fits all heads and DLSA again, with its own held-out rows and its own order of
rows. How ``joint`` varies with the held-out rows, ``benchmarks.heads`` shows.

- CIFAR-100-LT: ``--archive cifar100-images.tar.gz --imb-factor 100`` (the published split of LDAM-DRW)
- plankton: ``--archive plankton-images.tar.gz`` (its own counts)

``--set`` changes parameters, e.g. ``train.frozen=false train.trainable=norm train.epochs=2``. ``--folder`` keeps the
work, so that a killed run goes on. Seconds are wall time of the stage's process, its start included.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cifar_lt import unpack
from benchmarks.common import METHODS, ROOT, STAGES, machine, write_params
from benchmarks.timing import table
from longtail.methods.heads import HEADS
from longtail.methods.stage_methods import STAGE_METHODS
from stages.recipe import flat, read_recipe, with_defaults

COLUMNS = ("all", "many", "medium", "few", "macro", "ece")
RECIPE = "own_images_pretrained"


def settings_of(options: argparse.Namespace, root: Path) -> list[str]:
    """Overrides of params.yaml, without the seed."""
    chosen = dict(flat(with_defaults(read_recipe(RECIPE)["params"])))
    chosen |= {"data_root": str(root), "pretrain.weights": str(options.weights.absolute()), "dlsa.enabled": True}
    if options.imb_factor:
        chosen |= {"imb_type": "exp", "imb_factor": options.imb_factor}
    chosen |= {"runtime.threads": options.threads, "runtime.workers": 1, "runtime.device": options.device}
    return [f"{key}={json.dumps(value)}" for key, value in chosen.items()] + options.set


def run_stage(folder: Path, *command: str) -> dict[str, float]:
    """Run ``python -m stages.COMMAND`` in ``folder``. Returns its seconds and peak MiB. Its output goes to stderr."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    command_line = [sys.executable, "-m", f"stages.{command[0]}", *command[1:]]
    process = subprocess.Popen(command_line, cwd=folder, env=environment, stdout=sys.stderr)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed in {folder}")
    return {"seconds": time.perf_counter() - start, "MiB": usage.ru_maxrss / 1024}


def measure(folder: Path, settings: list[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Run the stages. What ``folder`` holds of an earlier run with the same settings is kept.

    Returns:
        ``summaries`` and ``selections`` by seed, and ``cost`` by stage, for heads and methods one per seed.
    """
    record = folder / "finished.json"
    found: dict[str, Any] = json.loads(record.read_text()) if record.is_file() else {}
    if found.get("settings") != settings:
        found = {"settings": settings, "cost": {}, "summaries": {}, "selections": {}}
    write_params(folder, [*settings, f"seed={seeds[0]}"])

    def once(name: str, *command: str) -> None:
        if name not in found["cost"]:
            found["cost"][name] = run_stage(folder, *command)
            record.write_text(json.dumps(found))

    for stage in STAGES:
        once(stage, stage)
    for seed in seeds:
        if str(seed) in found["summaries"]:
            continue
        write_params(folder, [*settings, f"seed={seed}"])
        for name in HEADS.names():
            once(f"{name} {seed}", "rebalance", name)
        for method in STAGE_METHODS.entries().values():
            once(f"{method.stage} {seed}", method.stage)
        run_stage(folder, "evaluate")
        for kind in ("summary", "selection"):
            read = json.loads((folder / f"metrics/{kind}.json").read_text())
            found[{"summary": "summaries", "selection": "selections"}[kind]][str(seed)] = read
        record.write_text(json.dumps(found))
    return found


def cell(values: Sequence[float | None], decimals: int = 1) -> str:
    """Mean and, over several seeds, standard deviation; ``-`` where a value is missing."""
    if any(value is None for value in values):
        return "-"
    numbers = np.asarray(values, float)
    mean = f"{numbers.mean():.{decimals}f}"
    return mean if len(numbers) == 1 else f"{mean} ± {numbers.std(ddof=1):.{decimals}f}"


def report(found: dict[str, Any], seeds: Sequence[int]) -> None:
    """Print the table of all methods and the cost of the stages."""
    summaries = [found["summaries"][str(seed)] for seed in seeds]
    stage_of = {row: entry.stage for entry in STAGE_METHODS.entries().values() for row in entry.rows}
    lines = []
    for name in (name for name in METHODS if name in summaries[0]):
        cost = [found["cost"][f"{stage_of.get(name, name)} {seed}"] for seed in seeds]
        measures = [cell([summary[name].get(key) for summary in summaries]) for key in COLUMNS]
        lines.append([name, *measures, *(cell([one[key] for one in cost], 0) for key in ("seconds", "MiB"))])
    print(table(["method", *COLUMNS, "seconds", "peak MiB"], lines))
    print("percent; mean ± standard deviation over the seeds; rows of one stage have its time together\n")
    facts = [
        [stage, *(f"{found['cost'][stage][key]:.0f}" for key in ("seconds", "MiB"))]
        for stage in STAGES
        if stage in found["cost"]
    ]
    print(table(["stage", "seconds", "peak MiB"], facts))
    for key, column in (("l2", "softmax_regression"), ("tau", "tau"), ("weight_decay", "crt")):
        chosen = [found["selections"][str(seed)].get(column, {}).get(key) for seed in seeds]
        print(f"{column}: {key} {', '.join(map(str, chosen))}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", type=Path, required=True, help="NAME.tar.gz")
    parser.add_argument("--weights", type=Path, required=True, help="weights of the backbone")
    parser.add_argument("--imb-factor", type=float, help="subsample exponentially; default: the archive's own counts")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="work in this folder and keep it")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="more overrides of params.yaml")
    parser.add_argument("--smoke", action="store_true", help="a few images: does the script work?")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary) if options.folder is None else options.folder.absolute()
        root = work / "images"
        if not (root / "train").is_dir():
            unpack(options.archive, root, smoke=options.smoke)
        found = measure(work / "run", settings_of(options, root), options.seeds)
    print(machine("torch", "timm", "numpy", "scikit-learn"))
    if options.smoke:
        print("SMOKE TEST on a few images: the numbers mean nothing")
    changed = f", {' '.join(options.set)}" if options.set else ""
    print(f"{options.archive.name}, {options.weights.name}, {options.threads} threads, recipe {RECIPE}{changed}\n")
    report(found, options.seeds)


if __name__ == "__main__":
    main()
