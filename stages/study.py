"""Diagnostics: ``longtail study NAME``. Not a node of the DAG.

A study makes many runs, each a DVC experiment, and writes ``metrics/studies/NAME.csv``, a figure and a page. After a
kill, the same command goes on.
"""

import argparse
import importlib
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from longtail.core.errors import ConfigError
from longtail.core.params import bind
from longtail.core.seeds import SeedParams
from longtail.core.yaml import read_yaml
from longtail.params import check_params
from longtail.train.params import RuntimeParams
from stages.context import check_file, run
from stages.paths import PARAMS
from stages.recipe import assign, overlay, parse_setting, read_recipe, with_defaults
from stages.studies.page import Page
from stages.studies.runs import Experiments, FailedRunError, Run
from stages.studies.source import prepare

STUDIES = {
    "toy_case1": ("toy", "the tail class fixed, every other class from 2 % to all of its images"),
    "toy_case2": ("toy", "every other class fixed, the tail class from all of its images to 2 %"),
    "virtual_similar": ("virtual_similar", "images of a head class blended with images of a tail class"),
    "architectures": ("architectures", "ResNets by depth, each with CE, RS, RW and LDAM, with and without SSP"),
    "similarity": ("similarity", "which classes suffer from whom, on the features of the last run; trains nothing"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="longtail study", description="Studies of one question over many runs.")
    subparsers = parser.add_subparsers(dest="study", metavar="NAME", required=True)
    for name, (module, meaning) in STUDIES.items():
        one = subparsers.add_parser(name, help=meaning, description=meaning)
        study = importlib.import_module(f"stages.studies.{module}")
        if hasattr(study, "plan"):
            _add_common(one)
        study.add_arguments(one)
    options = parser.parse_args(arguments)
    study = importlib.import_module(f"stages.studies.{STUDIES[options.study][0]}")
    check_file(read_yaml(PARAMS))
    if hasattr(study, "plan"):
        run_study(study, options)
    else:
        study.main(options)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", type=int, nargs="+", help="seeds of training and split; default: seed of params.yaml"
    )
    parser.add_argument("--dataset", metavar="NAME", help="instead of the one in params.yaml")
    parser.add_argument("--recipe", metavar="NAME", help="start from a recipe instead of params.yaml")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any key of params.yaml for all runs; repeatable",
    )
    parser.add_argument("--jobs", type=int, help="runs at a time; default: cores / runtime.threads")
    parser.add_argument("--show", action="store_true", help="list the runs, and stop")


def run_study(study: Any, options: argparse.Namespace) -> None:
    """Plan the runs, execute those that are missing, and write the results."""
    params, options.pretrain_settings = parameters(options)
    options.seeds = list(dict.fromkeys(options.seeds or [params.get("seed", SeedParams().seed)]))
    for seed in options.seeds:
        if not 0 <= seed < 2**32:
            raise ConfigError(f"--seeds must be at least 0 and below 2^32, got {seed}")
    if options.jobs is not None and options.jobs < 1:
        raise ConfigError(f"--jobs must be at least 1, got {options.jobs}")
    source = prepare(params)
    runs = study.plan(options, source)
    refuse_varied(options, runs)
    experiments = Experiments(options.study, params, options.jobs or usual_jobs(params))
    if options.show:
        for one in runs:
            experiments.content(one)
            print(f"{one.name}: {', '.join(f'{key} {value}' for key, value in one.settings.items())}")
        return
    results, failures = experiments.execute(runs)
    finished = [one for one in runs if one.name in results]
    if finished:
        found = study.table(finished, results, source)
        page = Page(options.study, STUDIES[options.study][1].capitalize(), command_line(options))
        study.write(page, found, options, source)
        print(f"wrote {', '.join(map(str, page.write({options.study: found})))}")
        print("the runs: dvc exp show -A --only-changed --drop 'metrics/(summary|details|selection|dlsa|ipdpp).json.*'")
    if failures:
        raise FailedRunError(f"{len(failures)} of {len(runs)} runs failed: {'; '.join(failures)}")


def usual_jobs(params: dict[str, Any]) -> int:
    """As many runs at a time as there are cores for; one on a GPU."""
    runtime = bind(RuntimeParams, params.get("runtime", {}))
    if runtime.device.startswith("cuda") or (runtime.device == "auto" and Path("/proc/driver/nvidia").exists()):
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // runtime.threads)


def refuse_varied(options: argparse.Namespace, runs: Sequence[Run]) -> None:
    """Refuse ``--set`` of a key that the study sets itself.

    Raises:
        ConfigError: names the key.
    """
    varied = {key for one in runs for key in one.settings} - (options.pretrain_settings.keys() - {"pretrain.method"})
    for setting in options.set:
        name, _ = parse_setting(setting)
        if any(key == name or key.startswith(f"{name}.") for key in varied):
            raise ConfigError(f"--set cannot change {name}, which the study {options.study} sets itself")


def parameters(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that all runs share, and those of pretraining, by full name, for the runs that pretrain.

    They are params.yaml or the recipe, then ``--dataset`` and ``--set``.

    Raises:
        ConfigError: they are not valid.
    """
    content = read_yaml(PARAMS)
    if options.recipe is not None:
        overlay(content, with_defaults(read_recipe(options.recipe)["params"]))
    if options.dataset is not None:
        content["dataset"] = options.dataset
    pretraining = {}
    for setting in options.set:
        name, value = parse_setting(setting)
        if name.startswith("pretrain.") and getattr(options, "starts", False):
            pretraining[name] = value
        else:
            assign(content, name, value)
    if isinstance(content.get("data_root"), str):  # runs have folders of their own
        content["data_root"] = str(Path(content["data_root"]).absolute())
    weights = content.get("pretrain", {}).get("weights")
    if isinstance(weights, str) and Path(weights).is_file():
        content["pretrain"]["weights"] = str(Path(weights).absolute())
    check_params(content)
    return content, pretraining


def command_line(options: argparse.Namespace) -> str:
    """The options that make these results, as they would be typed."""
    words = ["longtail", "study", options.study]
    for name, value in vars(options).items():
        if name in ("study", "jobs", "show", "starts", "pretrain_settings") or value in (None, False):
            continue
        flag = f"--{name.replace('_', '-')}"
        if name == "set":
            words += [word for one in value for word in (flag, one)]
        else:
            words += [flag, *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


if __name__ == "__main__":
    run(main)
