"""All methods on CIFAR-100-LT and CIFAR-10-LT with a recipe: ``python -m benchmarks.cifar_lt --archive FILE``.

The archive (``NAME/train/CLASS/*.jpg``, ``NAME/test/CLASS/*.jpg``) is unpacked, and the stages run on it:

- Data: dataset image_folder, no val, always the published split (split_seed 0). --seeds only seeds training.
- Pretraining and stage 1: as in ``recipes/NAME.yaml``, where NAME is set by --recipe. The default is LDAM-DRW's recipe
  with cross-entropy.
- cRT (10 epochs) and LWS (5 epochs): the ImageNet-LT settings of Kang et al. 2020, with batch size 128 and the learning
  rate scaled to it, 0.05, as the authors advise.
- IP-DPP and its control: finetuned as in Lin & Yuan 2025.
- All other keys: as in params.yaml.

--bns-epochs runs the full system of Lin & Yuan 2025: a ResNet-34 (CIFAR-10: ResNet-18) is pretrained with BNS, for 1000
epochs in the paper. It is then frozen and gets a linear probe, which is the row joint.

--folder lets a killed run resume, so that a long run can be split into short ones.
"""

import argparse
import json
import os
import shutil
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.common import METHODS, machine, run_pipeline, run_stage, write_params
from benchmarks.timing import table
from longtail.params import defaults
from stages.recipe import flat, names, read_recipe

BATCH_SIZE = 128
BNS_BATCH = {100: 512, 10: 1024}
PLAIN = "cifar100_lt_ce"
COLUMNS = ("all", "many", "medium", "few", "macro", "ece")
SMOKE_CLASSES, SMOKE_TRAIN, SMOKE_TEST = 4, 40, 10
PUBLISHED = {
    (100, 100.0): "CIFAR-100-LT, imbalance factor 100: joint 38-40, the best head 40.5-43.5",
    (10, 100.0): "CIFAR-10-LT, imbalance factor 100: joint 70-72",
}
PUBLISHED_BNS = {
    (100, 100.0): "CIFAR-100-LT, imbalance factor 100, 1000 epochs of BNS: linear probe (joint) 47.1, ipdpp 52.4",
    (10, 100.0): "CIFAR-10-LT, imbalance factor 100, 1000 epochs of BNS: linear probe (joint) 68.2, ipdpp 76.4",
}


def settings_of(name: str) -> list[str]:
    """Return a recipe's overrides of params.yaml, except those that choose the data."""
    data = ("dataset", "imb_type", "imb_factor", "val_per_class", "split_seed")
    return _overrides({key: value for key, value in read_recipe(name)["params"].items() if key not in data})


def _overrides(params: dict[str, Any]) -> list[str]:
    """Return ``group.key=value`` of every key."""
    return [f"{key}={json.dumps(value)}" for key, value in flat(params)]


def bns_recipe(classes: int, epochs: int) -> list[str]:
    """Return more overrides: ``epochs`` of BNS, and a linear probe instead of stage 1, as released.

    The groups that the recipe names start from their defaults, so that nothing of another recipe is left in them.
    """
    name, initial = f"cifar{classes}_lt_bns_ipdpp", defaults()
    groups = {key: initial[key] for key, value in read_recipe(name)["params"].items() if isinstance(value, dict)}
    warmup = f"pretrain.warmup_epochs={min(20, epochs)}"
    return [*_overrides(groups), *settings_of(name), f"pretrain.epochs={epochs}", warmup]


def recipe(root: Path, imb_factor: float, seed: int, name: str = PLAIN, epochs: int | None = None) -> list[str]:
    """Return overrides of params.yaml. ``epochs`` shortens the recipe and its pretraining and drops its milestones."""
    settings = [
        "dataset=image_folder",
        f"data_root={root}",
        "storage=memory",
        "imb_type=exp",
        f"imb_factor={imb_factor}",
        "val_per_class=0",
        "split_seed=0",
        f"seed={seed}",
        *(setting for setting in settings_of("cifar100_lt_bns_ipdpp") if setting.startswith("ipdpp.")),
        *settings_of(name),
        *(
            f"{method}.{setting}"
            for method, length in (("crt", 10), ("lws", 5))
            for setting in (f"epochs={length}", f"batch_size={BATCH_SIZE}", "lr=0.05", "weight_decay=5e-4")
        ),
        f"runtime.workers={min(8, os.cpu_count() or 1)}",
    ]
    if epochs is not None:
        pretrains = _value(settings, "pretrain.method") not in (None, "none")
        for group in ("pretrain", "train") if pretrains else ("train",):
            warmup = _value(settings, f"{group}.warmup_epochs")
            settings += [f"{group}.epochs={epochs}", f"{group}.milestones=auto"]
            settings += [f"{group}.warmup_epochs={min(warmup, epochs)}"] if isinstance(warmup, int) else []
    return settings


def _value(settings: list[str], key: str) -> Any:
    """Return the value of ``key`` in the last of ``settings`` that sets it, or None."""
    given = [setting.partition("=")[2] for setting in settings if setting.startswith(f"{key}=")]
    return json.loads(given[-1]) if given else None


def unpack(archive: Path, target: Path, *, smoke: bool) -> None:
    """Unpack the images of the archive to ``target/PART/CLASS/FILE``. ``smoke`` takes a few images of a few classes.

    Raises:
        SystemExit: the archive has no images.
    """
    limit = {"train": SMOKE_TRAIN, "test": SMOKE_TEST}
    taken: dict[tuple[str, str], int] = {}
    classes: list[str] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if not member.isfile() or len(parts) < 3 or parts[-3] not in limit:
                continue
            part, label, name = parts[-3:]
            if label not in classes:
                if smoke and len(classes) == SMOKE_CLASSES:
                    continue
                classes.append(label)
            taken[part, label] = taken.get((part, label), 0) + 1
            if smoke and taken[part, label] > limit[part]:
                continue
            path = target / part / label / name
            path.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            path.write_bytes(content.read())
    if not taken:
        raise SystemExit(f"{archive} must contain train/CLASS/FILE or test/CLASS/FILE, got neither")


def run_seed(folder: Path, settings: list[str], online: bool) -> dict[str, Any]:
    """Run the pipeline. Return the summary by method, selected values, training cost, and seconds by stage.

    ``online`` adds online cRT and LWS.
    """
    outcome = run_pipeline(folder, settings)
    outcome["cost"] = {
        stage: json.loads((folder / f"metrics/cost/{stage}.json").read_text())
        for stage in ("pretrain", "train_backbone")
    }
    outcome["tau"] = json.loads((folder / "metrics/selection.json").read_text())["tau"]["tau"]
    outcome["images"] = int(pd.read_csv(folder / "data/class_counts.csv")["train"].sum())
    if online:
        write_params(folder, [*settings, "crt.mode=online", "lws.mode=online"])
        for method in ("crt", "lws"):
            outcome["seconds"][f"rebalance@{method} online"] = run_stage(folder, "rebalance", method)
        run_stage(folder, "evaluate")
        summary = json.loads((folder / "metrics/summary.json").read_text())
        outcome["summary"] |= {f"{method} online": summary[method] for method in ("crt", "lws")}
    return outcome


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--archive", type=Path, help="NAME.tar.gz")
    parser.add_argument(
        "--dataset-root", type=Path, help="folder with train/ and test/; filled from --archive if absent"
    )
    parser.add_argument("--classes", type=int, help="number of classes; default as in the recipe")
    parser.add_argument("--imb-factor", type=float, help="imbalance factor; default as in the recipe")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--recipe", default=PLAIN, choices=[name for name in names() if name.startswith("cifar")])
    parser.add_argument(
        "--epochs", type=int, help="of pretraining and stage 1; default as in the recipe, 2 with --smoke"
    )
    parser.add_argument(
        "--bns-epochs", type=int, help="pretrain with BNS for this many epochs, then train a linear probe"
    )
    parser.add_argument("--folder", type=Path, help="work in this folder and keep it; the same command resumes from it")
    parser.add_argument("--online", action="store_true", help="also train cRT and LWS on augmented images")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="more overrides of params.yaml")
    parser.add_argument("--smoke", action="store_true", help="a few images on the CPU: does the script work?")
    options = parser.parse_args(arguments)
    if options.archive is None and (options.dataset_root is None or options.smoke):
        parser.error("--archive is needed" + (" with --smoke" if options.smoke else ", or --dataset-root"))
    chosen = read_recipe(options.recipe)["params"]
    classes = {"cifar10": 10, "cifar100": 100}[chosen["dataset"]]
    if options.recipe != PLAIN and options.classes not in (None, classes):
        parser.error(f"--classes must be {classes} with --recipe {options.recipe}, got {options.classes}")
    options.classes = options.classes or classes
    options.imb_factor = options.imb_factor or float(chosen["imb_factor"])
    if options.bns_epochs and options.classes not in BNS_BATCH:
        parser.error(f"--classes must be 10 or 100 with --bns-epochs, got {options.classes}")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) if options.folder is None else options.folder.absolute()
        root = work / "images" if options.dataset_root is None or options.smoke else options.dataset_root.absolute()
        if not (root / "train").is_dir():
            if options.archive is None:
                parser.error(f"--archive must be given if --dataset-root has no train/, got {root} alone")
            unpack(options.archive, root, smoke=options.smoke)
        found = sum(entry.is_dir() for entry in (root / "train").iterdir())
        if not options.smoke and found != options.classes:
            parser.error(f"--classes must be {found}, the number in {root}, got {options.classes}")
        if options.bns_epochs and options.epochs:
            parser.error(
                "--epochs must not be given with --bns-epochs; to change the probe, use --set train.epochs=..."
            )
        if options.bns_epochs and options.recipe != PLAIN:
            parser.error("--recipe must not be given with --bns-epochs, which is a recipe itself")
        epochs = options.epochs or (2 if options.smoke else None)
        imb_factor = min(options.imb_factor, SMOKE_TRAIN / 4) if options.smoke else options.imb_factor
        runs = []
        for seed in options.seeds:
            settings = recipe(root, imb_factor, seed, options.recipe, epochs)
            settings += bns_recipe(options.classes, options.bns_epochs) if options.bns_epochs else []
            settings += ["runtime.device=cpu", "runtime.progress=off"] if options.smoke else []
            runs.append(run_seed(work / f"seed{seed}", [*settings, *options.set], options.online))
            if options.folder is None:
                shutil.rmtree(work / f"seed{seed}")
        trained = f"{options.recipe}, {_value([*settings, *options.set], 'train.epochs')} epochs"
        if options.bns_epochs:
            trained = f"BNS, {options.bns_epochs} epochs, and a linear probe"
        report(runs, options, found, imb_factor, trained, [*settings, *options.set])


def report(
    runs: list[dict[str, Any]],
    options: argparse.Namespace,
    classes: int,
    imb_factor: float,
    trained: str,
    settings: list[str],
) -> None:
    smoke, bns_epochs = options.smoke, options.bns_epochs
    print(machine("torch", "numpy", "pillow"))
    if smoke:
        print("SMOKE TEST on a few images: the numbers mean nothing")
    print(f"{classes} classes, {runs[0]['images']:,} training images, imbalance factor {imb_factor:g}")
    print(
        f"{trained}, seeds {' '.join(map(str, options.seeds))}; percent"
        + (", mean ± standard deviation" if len(runs) > 1 else "")
    )
    print()
    methods = [*METHODS, *(name for name in runs[0]["summary"] if name not in METHODS)]
    lines = [[name, *(_cell([run["summary"][name].get(key) for run in runs]) for key in COLUMNS)] for name in methods]
    print(table(["method", *COLUMNS], lines))
    published = PUBLISHED_BNS if bns_epochs else PUBLISHED
    aim = published.get((classes, imb_factor))
    if options.recipe != PLAIN:
        chosen = read_recipe(options.recipe)
        aim = chosen["aim"] if imb_factor == chosen["params"]["imb_factor"] else None
    if not smoke and aim:
        print(f"\nPublished, {aim}.")
        print("These images are JPEG copies of the original pixels, which can cost a little accuracy.")
    print(f"\ntau: {', '.join(format(run['tau'], 'g') for run in runs)}\n")
    size = runs[0]["cost"]["train_backbone"]
    stage = "pretrain" if bns_epochs else "train_backbone"
    images = runs[0]["images"]
    batch_size = min(
        images, BNS_BATCH.get(classes, BNS_BATCH[100]) if bns_epochs else _value(settings, "train.batch_size")
    )
    kept = not bns_epochs and _value(settings, "train.drop_last") is False
    an_epoch = [run["cost"][stage]["seconds"] / run["cost"][stage]["epochs"] for run in runs]
    shown = images if kept else images // batch_size * batch_size
    facts = [
        [f"seconds per epoch of {stage}, including startup and reading the images", _cell(an_epoch)],
        [f"images/s of {stage}", _cell([shown / seconds for seconds in an_epoch])],
        ["parameters", f"{size['parameters']:,}"],
        ["MACs per image", f"{size['macs']:,}"],
        [f"peak memory of {stage}, MiB", _cell([run["cost"][stage]["peak_memory_bytes"] / 2**20 for run in runs])],
        ["seconds of each stage, including process start", ""],
    ]
    facts += [[f"- {stage}", _cell([run["seconds"][stage] for run in runs])] for stage in runs[0]["seconds"]]
    print(table(["cost", "value"], facts))


def _cell(values: list[float | None]) -> str:
    """Format the mean, and for several values the standard deviation. ``-`` marks an empty group."""
    if any(value is None for value in values):
        return "-"
    numbers = np.asarray(values, float)
    mean = f"{numbers.mean():,.1f}"
    return mean if len(numbers) == 1 else f"{mean} ± {numbers.std(ddof=1):,.1f}"


if __name__ == "__main__":
    main()
