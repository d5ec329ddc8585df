"""What the kernel of IP-DPP adds to finetuning on a smaller set: ``python -m benchmarks.ipdpp [KEY=VALUE ...]``.

The stages train --backbones networks with the given overrides of params.yaml. ``finetune_ipdpp`` then runs on each
network, for every variant and --repeats finetuning seeds. The gain of a run is the accuracy of the method minus that of
its own control. The control has the same sizes, initial head and random streams and differs only in the draw.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.common import STAGES, machine, run_stage, write_params
from benchmarks.timing import table
from longtail.artifacts.predictions import read_predictions
from longtail.core.params import bind
from longtail.core.yaml import read_yaml
from longtail.evaluation.metrics import summarize
from longtail.evaluation.shots import Shots
from longtail.methods.ipdpp.selection_file import read_selection
from longtail.methods.ipdpp.tables import diagnostics

VARIANTS: dict[str, list[str]] = {
    "scale n (paper)": [],
    "scale n2 (released kernel)": ["ipdpp.scale=n2"],
    "released draws": ["ipdpp.sampler=uniform_official", "ipdpp.p_source=model"],
    "p of the backbone's head": ["ipdpp.p_source=head"],
    "k = 5 * n_min": ["ipdpp.k=5*n_min"],
    "feature kernel": ["ipdpp.sampler=feature_kdpp"],
    "encoder frozen": ["ipdpp.freeze=encoder"],
}
GROUPS = ("all", "many", "medium", "few")
MADE_BY = "finetune_ipdpp"


def run(folder: Path, settings: list[str]) -> tuple[np.ndarray, dict]:
    """Return the accuracy in percent of control and method by group, (2, 4), and the diagnostics of the draw.

    An empty group is NaN.
    """
    write_params(folder, settings)
    run_stage(folder, MADE_BY)
    shots = bind(Shots, read_yaml(folder / "params.yaml")[Shots.path])
    scores = []
    for name in ("ipdpp_uniform", "ipdpp"):
        predictions = read_predictions(folder / f"metrics/predictions/{name}.h5", MADE_BY)
        measures = summarize(predictions, predictions.train_counts, shots)
        scores.append([float(measures.get(group, np.nan)) for group in GROUPS])
    selection = read_selection(folder / "models/ipdpp_selection.h5", MADE_BY)
    return np.array(scores), diagnostics(selection, predictions, shots)


def backbone(folder: Path, settings: list[str]) -> None:
    """Run the stages up to the features, unless they have run in ``folder`` already."""
    if not (folder / "features/head.h5").is_file():
        write_params(folder, settings)
        for stage in STAGES:
            run_stage(folder, stage)


def spread(values: np.ndarray, sign: str = "") -> str:
    """Format the mean and standard deviation of the runs. ``-`` marks an empty group."""
    if np.isnan(values).any():
        return "-"
    return f"{values.mean():{sign}.2f} ± {values.std(ddof=1) if len(values) > 1 else 0:.2f}"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", type=int, default=1, help="number of networks, with seeds 0, 1, ...")
    parser.add_argument("--repeats", type=int, default=5, help="finetuning seeds per network")
    parser.add_argument("--work", type=Path, help="keep the networks in this folder and reuse them")
    parser.add_argument("--only", default="", help="only variants whose name contains this text")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="overrides of params.yaml")
    options = parser.parse_args(arguments)
    chosen = {name: own for name, own in VARIANTS.items() if options.only in name}
    scores: dict[str, list[np.ndarray]] = {name: [] for name in chosen}
    draws: dict[str, dict] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for seed in range(options.backbones):
            folder = (options.work or Path(temporary)).absolute() / str(seed)
            settings = [f"seed={seed}", *options.settings]
            backbone(folder, settings)
            for name, own in chosen.items():
                for repeat in range(options.repeats):
                    found, draws[name] = run(folder, [*settings, *own, f"seed={seed + 1000 * repeat}"])
                    scores[name].append(found)
    print(machine("torch", "numpy"))
    print(
        f"{options.backbones} backbones x {options.repeats} seeds of finetuning; percent, mean ± standard deviation\n"
    )
    lines = []
    for name, runs in scores.items():
        control, method = np.stack(runs).transpose(1, 2, 0)
        gains = [spread(method[g] - control[g], "+") for g in range(len(GROUPS))]
        lines.append([name, spread(control[0]), spread(method[0]), *gains])
    print(table(["variant", "control, all", "method, all", *(f"gain, {group}" for group in GROUPS)], lines))
    print("\nThe draw of the last run, see docs/ipdpp.md:\n")
    for name, draw in draws.items():
        print(f"- {name}: {json.dumps(draw)}")


if __name__ == "__main__":
    main()
