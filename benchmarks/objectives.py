"""Every training objective on long-tailed digits: ``python -m benchmarks.objectives [--seeds 3]``.

Each run has the defaults of params.yaml, except for the objective and its rule. For cross-entropy, image mixing and
pretraining also vary. Split and training use the same seed. The scores are those of the prediction head (the row
joint).
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import get_args

import numpy as np

from benchmarks.common import STAGES, machine, run_stage, write_params
from benchmarks.timing import table
from longtail.artifacts.predictions import read_predictions
from longtail.core.params import bind, type_of
from longtail.core.yaml import read_yaml
from longtail.evaluation.metrics import summarize
from longtail.evaluation.shots import Shots
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.objectives.params import TrainParams
from longtail.methods.pretraining import METHODS as PRETRAINING

COLUMNS = ("all", "many", "medium", "few", "ece")
RULES: tuple[str, ...] = get_args(type_of(TrainParams, "rule"))
MIXES = [name for name in get_args(type_of(TrainParams, "mix")) if name != "none"]
STARTS = PRETRAINING.names()


def cases(objectives: list[str], rules: list[str], mixes: list[str], starts: list[str]) -> dict[str, list[str]]:
    """Map each case to its settings. Rules that an objective does not support are omitted."""
    found = {}
    for name in objectives:
        known = RULES if OBJECTIVES.get(name).weighted else ("none", "resample")
        for rule in (rule for rule in rules if rule in known):
            found[name if rule == "none" else f"{name}, {rule}"] = [f"train.objective={name}", f"train.rule={rule}"]
    found |= {f"ce, {mix}": [f"train.mix={mix}"] for mix in mixes}
    found |= {f"ce from {start}": [f"pretrain.method={start}"] for start in starts}
    probe = "train.trainable=head"
    return found | {f"linear probe on {start}": [f"pretrain.method={start}", probe] for start in starts}


def run(folder: Path, settings: list[str]) -> list[float]:
    """Return the measures in COLUMNS. An empty group is NaN."""
    write_params(folder, settings)
    for stage in STAGES:
        run_stage(folder, stage)
    run_stage(folder, "rebalance", "joint")
    predictions = read_predictions(folder / "metrics/predictions/joint.h5", "rebalance@joint")
    found = summarize(predictions, predictions.train_counts, bind(Shots, read_yaml(folder / "params.yaml")[Shots.path]))
    return [float(found.get(column, np.nan)) for column in COLUMNS]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", nargs="+", default=OBJECTIVES.names(), choices=OBJECTIVES.names())
    parser.add_argument("--rules", nargs="+", default=["none", "drw"], choices=RULES)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides of params.yaml")
    parser.add_argument("--mixes", nargs="*", default=MIXES, choices=MIXES)
    parser.add_argument("--starts", nargs="*", default=STARTS, choices=STARTS)
    options = parser.parse_args(arguments)
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        for name, settings in cases(options.objectives, options.rules, options.mixes, options.starts).items():
            runs = []
            for seed in range(options.seeds):
                runs.append(run(Path(folder), [f"seed={seed}", f"split_seed={seed}", *settings, *options.set]))
            lines.append([name, *(_cell(values) for values in np.array(runs).T)])
            print(f"{name}: {lines[-1][1]}", file=sys.stderr)
    print(f"{machine('torch', 'numpy')}; n = {options.seeds} seeds, mean ± standard deviation\n")
    print(table(["trained by", *COLUMNS], lines))


def _cell(values: np.ndarray) -> str:
    if np.isnan(values).any():
        return "-"
    return f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" if len(values) > 1 else f"{values.mean():.1f}"


if __name__ == "__main__":
    main()
