"""The toy example: does a tail class suffer from its count alone?

Case 1 fixes the tail class at 50 images and gives every other class 100 to 5,000. Case 2 fixes the others at 5,000 and
gives the tail class 5,000 to 100. On smaller datasets the numbers keep their proportions. The final epoch counts.

The released scripts do not do this: case 1 trains on exponential counts whatever it is asked for, and the best
accuracy of one run stays the best of the next. Nothing of that is repeated here.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from longtail.core.errors import ConfigError
from longtail.data.blends import find_class
from stages.studies.page import Line, Page, Panel, line_figure
from stages.studies.published import STEPS, TOY_TAIL, TOY_TOP1
from stages.studies.runs import Run
from stages.studies.source import Source

LARGEST, SMALL = 5000, 50
QUESTION = {
    "toy_case1": "The tail class keeps its few images. Every other class grows.",
    "toy_case2": "Every other class keeps all its images. The tail class shrinks.",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--grid", choices=("table", "full"), default="table", help="10 runs, or all 50, for each seed")
    parser.add_argument("--tail", metavar="CLASS", help="the tail class, by name or label; default: the last")
    parser.add_argument(
        "--steps", type=int, nargs="+", metavar="N", help="only these steps, each 100 to 5000 in hundreds"
    )


def steps(options: argparse.Namespace) -> list[int]:
    """100 * (i + 1) of the chosen runs.

    Raises:
        ConfigError: a step that is not on the grid.
    """
    full = list(range(100, LARGEST + 1, 100))
    if options.steps is None:
        return full if options.grid == "full" else list(STEPS)
    outside = [step for step in options.steps if step not in full]
    if outside:
        raise ConfigError(f"--steps must be hundreds from 100 to {LARGEST}, got {outside[0]}")
    return sorted(set(options.steps))


def plan(options: argparse.Namespace, source: Source) -> list[Run]:
    """The runs: for each seed the grid."""
    case, names = options.study, source.class_names
    tail = len(names) - 1 if options.tail is None else find_class(options.tail, names, "--tail")
    runs = []
    for seed in options.seeds:
        largest = source.smallest_pool(seed)

        def scaled(count: int, largest: int = largest) -> int:
            return max(1, largest * count // LARGEST)

        for step in steps(options):
            heads = scaled(step) if case == "toy_case1" else largest
            few = scaled(SMALL) if case == "toy_case1" else scaled(LARGEST + 100 - step)
            counts = [heads] * len(names)
            counts[tail] = few
            facts = {"case": case[-1], "i": step // 100 - 1, "seed": seed, "n_head": heads, "n_tail": few, "tail": tail}
            settings = {
                "imb_type": "counts",
                "imb_factor": 100.0,
                "class_counts": counts,
                "val_per_class": 0,
                "seed": seed,
                "split_seed": seed,
            }
            runs.append(Run(f"i{step // 100 - 1:02}-head{heads}-tail{few}-seed{seed}", settings, facts))
    return runs


def table(runs: Sequence[Run], results: Mapping[str, Mapping[str, Any]], source: Source) -> pd.DataFrame:
    """One row per run: its facts, the accuracy of each class, top-1 and top-5, in percent."""
    rows = []
    for run in runs:
        result = results[run.name]
        classes = dict(zip(source.class_names, result["classes"], strict=True))
        rows.append({**run.facts, **{f"accuracy {name}": value for name, value in classes.items()}})
        rows[-1] |= {"top1": result["all"], "top5": result.get("top5", np.nan)}
        rows[-1]["tail"] = source.class_names[run.facts["tail"]]
    return pd.DataFrame(rows)


def write(page: Page, found: pd.DataFrame, options: argparse.Namespace, source: Source) -> None:
    """The figure and the page."""
    case = options.study
    share = (found["i"] + 1) * 100 / LARGEST
    x = 100 * (share if case == "toy_case1" else (LARGEST + 100) / LARGEST - share)
    tail = found["tail"].iloc[0]
    published_x = 100 * np.array(STEPS if case == "toy_case1" else [LARGEST + 100 - step for step in STEPS]) / LARGEST
    others = [f"accuracy {name}" for name in source.class_names if name != tail]
    unit = "images of every other class" if case == "toy_case1" else "images of the tail class"
    figure = line_figure(
        [
            Panel(
                f"tail class ({tail})",
                [
                    Line.over_seeds("ours", x, found[f"accuracy {tail}"]),
                    Line("published, CIFAR-10", published_x, np.array(TOY_TAIL[case]), dashed=True),
                ],
            ),
            Panel("mean of the other classes", [Line.over_seeds("ours", x, found[others].mean(axis=1))]),
            Panel(
                "top-1",
                [
                    Line.over_seeds("ours", x, found["top1"]),
                    Line("published, CIFAR-10", published_x, np.array(TOY_TOP1[case]), dashed=True),
                ],
            ),
        ],
        f"{unit}, % of the largest class",
        "accuracy, %",
    )
    page.add_text(QUESTION[case])
    page.add_figure(figure, f"{case}: accuracy by class size")
    page.add_text(
        "Mean and, over several seeds, standard deviation. The published runs are ResNet-32 on CIFAR-10. In four of "
        "their rows (case 1 at 1500, 2000 and 3000, case 2 at 100 tail images) top-1 is not the mean of the classes."
    )
    page.add_table(found)
