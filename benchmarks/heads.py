"""All heads on stored features, with their defaults: ``OMP_NUM_THREADS=1 python -m benchmarks.heads FILE.npz``.

The file has the arrays X (N, D), y (N,) of the training rows and Xt, yt of the test rows, and perhaps Xv, yv of
validation rows. The base head is fitted first; its time is that of ``joint``, and heads that take the stage-1 head get
it. A seed decides which rows are held out and how rows are shuffled. ``--set lda.correction=0`` changes a parameter.
"""

import argparse
import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from benchmarks.common import machine, override
from benchmarks.timing import table
from longtail.artifacts.predictions import build_predictions
from longtail.core.errors import ConfigError
from longtail.core.params import Group, bind, check_given, replace, show
from longtail.evaluation.metrics import summarize
from longtail.evaluation.shots import Shots
from longtail.methods.heads import HEADS, HeadEntry, SoftmaxRegression

MEASURES = ("all", "macro", "many", "medium", "few", "ece")


def parameters(names: Sequence[str], settings: Sequence[str]) -> dict[str, Group]:
    """The parameters of each head: its defaults, changed by settings ``HEAD.KEY=VALUE``.

    Raises:
        ConfigError: a head that is not among the names, or a value that its parameters refuse or that has no effect.
    """
    content: dict[str, Any] = {}
    override(content, list(settings))
    for name in content:
        if name not in names:
            raise ConfigError(f"--set must name one of the heads {', '.join(names)}, got {name}")
    found: dict[str, Group] = {}
    for name in names:
        entry = HEADS.get(name)
        found[name] = group = bind(entry.params, content.get(name, {}))
        check_given(group)
        for key in content.get(name, {}):
            given, default = getattr(group, key), getattr(entry.params(), key)
            if given != default and arguments(entry, group) == arguments(entry, replace(group, **{key: default})):
                raise ConfigError(f"{name}.{key} must be {show(default)}, the only one here, got {show(given)}")
    return found


def arguments(entry: HeadEntry, params: Group) -> dict[str, Any]:
    """What the estimator takes of the parameters."""
    taken = inspect.signature(entry.estimator).parameters
    given = {**vars(params), **entry.arguments(params)}
    return {name: value for name, value in given.items() if name in taken}


def fitted(estimator: Any, arrays: dict[str, np.ndarray]) -> float:
    """Fit the estimator, with the validation rows if it takes them and there are some. Returns the seconds."""
    rows = [arrays["X"], arrays["y"]]
    if "Xv" in arrays and "X_val" in inspect.signature(estimator.fit).parameters:
        rows += [arrays["Xv"], arrays["yv"]]
    start = time.perf_counter()
    estimator.fit(*rows)
    return time.perf_counter() - start


def measures(name: str, estimator: Any, arrays: dict[str, np.ndarray]) -> dict[str, float | int]:
    """The measures of the pipeline's table on the test rows."""
    counts, labels = np.bincount(arrays["y"]), arrays["yt"]
    predictions = build_predictions(
        name,
        estimator.scores(arrays["Xt"]),
        labels,
        np.arange(len(labels)),
        likelihood=HEADS.get(name).likelihood,
        selected_on_test=False,
        split_digest="",
        train_counts=counts,
    )
    return summarize(predictions, counts, Shots())


def run(params: Mapping[str, Group], arrays: dict[str, np.ndarray], seed: int) -> dict[str, list[float]]:
    """For each head of ``params`` the MEASURES, NaN for those it has not, and the seconds of its fit."""
    base = SoftmaxRegression(random_state=seed)
    base_seconds = fitted(base, arrays)
    offered = {"head": base.head_, "random_state": seed}
    results = {}
    for name, group in params.items():
        entry = HEADS.get(name)
        taken = inspect.signature(entry.estimator).parameters
        further = {key: value for key, value in offered.items() if key in taken}
        estimator: Any = entry.estimator(**arguments(entry, group), **further)
        seconds = fitted(estimator, arrays)
        found = measures(name, estimator, arrays)
        if not entry.likelihood:
            del found["ece"]
        results[name] = [float(found.get(key, np.nan)) for key in MEASURES]
        results[name].append(base_seconds if entry.is_stage1 else seconds)
    return results


def cell(values: Sequence[float]) -> str:
    """The mean and, over several seeds, the standard deviation."""
    if np.isnan(values).all():
        return "-"
    mean = f"{np.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {np.std(values, ddof=1):.1f}"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.heads", description=__doc__)
    parser.add_argument("file", help=".npz with X, y, Xt, yt")
    parser.add_argument("--heads", nargs="+", default=HEADS.names(), choices=HEADS.names())
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="e.g. lda.correction=0; repeatable"
    )
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(argv)
    try:
        params = parameters(options.heads, options.set)
    except ConfigError as error:
        parser.error(str(error))
    torch.set_num_threads(options.threads)
    with np.load(options.file) as file:
        arrays = {name: file[name].astype(np.float32 if file[name].dtype.kind == "f" else np.int64) for name in file}
    SoftmaxRegression().fit(np.eye(4), np.arange(4))  # imports what the first fit would otherwise be timed with
    runs = [run(params, arrays, seed) for seed in range(options.seeds)]
    rows = [[name, *(cell(values) for values in zip(*(r[name] for r in runs), strict=True))] for name in options.heads]
    print(table(("head", *MEASURES, "seconds"), rows))
    changed = f"set: {' '.join(options.set)}; " if options.set else ""
    print(f"\n{changed}threads: {options.threads}, seeds: {options.seeds}; {machine('torch', 'numpy')}")


if __name__ == "__main__":
    main()
