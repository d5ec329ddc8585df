"""The table of ResNets by depth: CE, RS, RW and LDAM, each with and without self-supervised pretraining (SSP).

On CIFAR-10 and CIFAR-100 start from the recipe of the published settings (``--recipe cifar10_lt_ce``); the published
cells stand beside ours. On any other dataset it is a small grid.
"""

import argparse
import fnmatch
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from longtail.core.errors import ConfigError
from stages.studies.page import Line, Page, Panel, line_figure
from stages.studies.published import ARCHITECTURES, DEPTHS, RATIOS, architecture
from stages.studies.runs import Run
from stages.studies.source import Source
from stages.studies.starts import PUBLISHED, start_settings

METHODS = {
    "ce": {"train.objective": "ce", "train.rule": "none"},
    "rs": {"train.objective": "ce", "train.rule": "resample"},
    "rw": {"train.objective": "ce", "train.rule": "reweight"},
    "ldam": {"train.objective": "ldam", "train.rule": "none"},
}
TITLES = {"ce": "CE", "rs": "RS (resampled)", "rw": "RW (reweighted)", "ldam": "LDAM"}
SMALL_DEPTHS = (8, 20)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only", nargs="+", metavar="PATTERN", help="runs by name, such as 'resnet32-ce*-imb100-seed0'; see --show"
    )
    parser.add_argument("--depths", type=int, nargs="+", help="default: 32 44 56 110 on CIFAR, else 8 20")
    parser.add_argument("--factors", type=float, nargs="+", help="imb_factor; default: 100 50 20 10 on CIFAR")
    parser.add_argument("--published", choices=list(ARCHITECTURES), help="of which dataset; default: that of --dataset")
    parser.set_defaults(starts=True)  # --set pretrain.KEY is for the runs with SSP


def dataset_of(options: argparse.Namespace, source: Source) -> str | None:
    """The dataset whose published cells stand beside ours."""
    name = options.published or source.params.get("dataset")
    return name if name in ARCHITECTURES else None


def plan(options: argparse.Namespace, source: Source) -> list[Run]:
    """Every combination whose name matches ``--only``.

    Raises:
        ConfigError: a pattern that matches no run.
    """
    published = dataset_of(options, source)
    depths = dict.fromkeys(options.depths or ()) or (DEPTHS if published else SMALL_DEPTHS)
    factors = dict.fromkeys(options.factors or ()) or (
        RATIOS if published else [source.params.get("imb_factor", 100.0)]
    )
    starts = [start_settings(method, options, published) for method in ("none", PUBLISHED)]
    runs = []
    for factor in factors:
        for depth in depths:
            for method, settings in METHODS.items():
                for ssp, start in enumerate(starts):
                    for seed in options.seeds:
                        name = f"resnet{depth}-{method}{'-ssp' if ssp else ''}-imb{factor:g}-seed{seed}"
                        changed = {**settings, **start, "train.backbone": f"resnet{depth}", "imb_factor": float(factor)}
                        facts = {"factor": factor, "depth": depth, "method": method, "ssp": bool(ssp), "seed": seed}
                        runs.append(Run(name, changed | {"seed": seed, "split_seed": seed}, facts))
    if options.only is None:
        return runs
    for pattern in options.only:
        if not fnmatch.filter([run.name for run in runs], pattern):
            raise ConfigError(f"--only must match a run, such as {runs[0].name}, got {pattern}")
    return [run for run in runs if any(fnmatch.fnmatch(run.name, pattern) for pattern in options.only)]


def table(runs: Sequence[Run], results: Mapping[str, Mapping[str, Any]], source: Source) -> pd.DataFrame:
    """One row per run: its facts, top-1 and the mean over classes in percent."""
    return pd.DataFrame(
        [{**run.facts, "top1": results[run.name]["all"], "macro": results[run.name]["macro"]} for run in runs]
    )


def write(page: Page, found: pd.DataFrame, options: argparse.Namespace, source: Source) -> None:
    """One figure for each imbalance factor, and the table beside the published cells."""
    published = dataset_of(options, source)
    columns = (found[name].tolist() for name in ("method", "ssp", "factor", "depth"))
    cells = [
        architecture(published or "", f"{method}+ssp" if ssp else method, factor, depth)
        for method, ssp, factor, depth in zip(*columns, strict=True)
    ]
    if published:
        found["published"] = [cell[0] if cell else np.nan for cell in cells]
        found["suspicious"] = ["yes" if cell and cell[1] else "" for cell in cells]
    page.add_text("Top-1 accuracy. SSP: self-supervised pretraining. Published: Table 11 of the authors' release.")
    if published:
        page.add_text("Suspicious cells repeat another column or come from a run that seems to have failed.")
    for factor, rows in found.groupby("factor", sort=False):
        panels = []
        for method, of_method in rows.groupby("method", sort=False):
            lines = []
            for ssp, chosen in of_method.groupby("ssp"):
                label = "with SSP" if ssp else "without"
                lines.append(Line.over_seeds(label, chosen["depth"], chosen["top1"]))
                if "published" in chosen and chosen["published"].notna().all():
                    lines.append(Line.over_seeds(f"{label}, published", chosen["depth"], chosen["published"]))
            panels.append(Panel(TITLES[str(method)], lines))
        page.add_figure(line_figure(panels, "layers", "top-1, %", percent=False), f"imbalance factor {factor:g}")
    gain = found.pivot_table(index=["factor", "depth", "method", "seed"], columns="ssp", values="top1")
    if {False, True} <= set(gain.columns):
        difference = (gain[True] - gain[False]).dropna()
        if len(difference):
            page.add_text(
                f"SSP changes top-1 by {difference.mean():+.1f} points on average over {len(difference)} pairs of "
                f"runs, and is better in {(difference > 0).sum()} of them."
            )
    page.add_table(found)
