"""Your own images, all heads, one command: ``longtail fit FOLDER``. Not a node of the DAG.

It lays the recipe ``own_images_pretrained`` over params.yaml with your folder, runs ``dvc repro evaluate`` and prints
the table. params.yaml then has these settings, so anything can be changed and run again with ``dvc exp run -S``.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from longtail.core.errors import ConfigError
from longtail.core.yaml import read_yaml
from longtail.train.params import RuntimeParams
from stages import recipe
from stages.commands import environment
from stages.context import run
from stages.paths import PARAMS

RECIPE = "own_images_pretrained"


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """What the options change, as an overlay on the recipe.

    Raises:
        ConfigError: FOLDER is no folder, the weights are no file, or ``--set`` is not KEY=VALUE.
    """
    folder = Path(os.path.expandvars(options.folder)).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"FOLDER must be a folder with train/CLASS and test/CLASS, got {options.folder}")
    changes: dict[str, Any] = {"data_root": str(folder.resolve())}
    if options.weights is not None:
        file = Path(os.path.expandvars(options.weights)).expanduser()
        if not file.is_file():
            raise ConfigError(f"--weights must be an existing file, got {options.weights}")
        changes["pretrain"] = {"weights": str(file.resolve())}
    if options.backbone is not None:
        changes["train"] = {"backbone": options.backbone}
    if options.image_size is not None:
        changes["image_size"] = options.image_size
    usual = RuntimeParams().threads
    if read_yaml(PARAMS).get("runtime", {}).get("threads", usual) == usual:  # one core is left to decode images
        changes["runtime"] = {"threads": max(usual, (os.cpu_count() or 1) - 1)}
    for setting in options.set:
        recipe.assign(changes, *recipe.parse_setting(setting))
    return changes


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="longtail fit", description="All heads on your own images.")
    parser.add_argument("folder", metavar="FOLDER", help="train/CLASS/*.jpg and test/CLASS/*.jpg")
    parser.add_argument("--weights", metavar="FILE", help="weights of the backbone; by default timm downloads them")
    parser.add_argument("--backbone", metavar="NAME", help="a timm model; default: that of the recipe")
    parser.add_argument("--image-size", type=int, metavar="PIXELS", help="side of the images that the backbone gets")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="any further key of params.yaml; repeatable"
    )
    parser.add_argument("--show", action="store_true", help="show what would change in params.yaml, and stop")
    options = parser.parse_args(arguments)
    lines = recipe.apply(RECIPE, PARAMS, options.show, settings(options))
    print("params.yaml:")
    print("\n".join(f"  {line}" for line in lines) if lines else "  has these settings already")
    if options.show:
        return
    sys.stdout.flush()
    command = [sys.executable, "-m", "dvc", "repro", "evaluate"]
    finished = subprocess.run(command, env=environment(), check=False)
    if finished.returncode:
        raise ConfigError("dvc repro evaluate failed; its messages are above")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "stages.table"], check=True)
    print("per class: metrics/per_class.csv. Change anything and run again, e.g.: dvc exp run -S joint.prior=uniform")


if __name__ == "__main__":
    run(main)
