"""What DLSA's routing adds, for several variants and their controls: ``python -m benchmarks.dlsa [SET ...]``.

Datasets:

- ``digits``: the pipeline's defaults.
- ``synthetic``: 20 classes in 5 superclasses, 64 features, imbalance 50.
- ``features``: those of --features, an .npz file with X, y (train) and Xt, yt (test), without val. One split, so the
  seed is that of training only.
- ``cifar100``: features of a short run (ResNet-20, 12 epochs, imbalance 100, 20 val images per class). Needs --archive.

Each split has its own backbone (cifar100: one split, three backbones). --work keeps the features in a folder.

All variants start from the base head, which is fitted on the training rows, and train it for the same number of epochs.
``dlsa_control`` is that head without a flow. ``random routing`` routes rows at random, in the same shares.
"""

import argparse
import inspect
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cifar_lt import unpack
from benchmarks.common import STAGES, machine, run_stage, write_params
from benchmarks.timing import table
from longtail.artifacts.features import read_features
from longtail.artifacts.head_files import read_head
from longtail.methods.dlsa.estimator import DLSA
from longtail.methods.heads import HEADS, HeadEntry
from longtail.methods.heads.base import HeadClassifier, LinearHead
from longtail.methods.heads.softmax_regression import SoftmaxRegression
from tests.synthetic import hierarchical_features

Parts = dict[str, tuple[np.ndarray, np.ndarray]]
SETS = ("digits", "synthetic", "features", "cifar100")
RELEASED = {  # settings of the released code; sizes, standardization and the bounded log-scale stay as they are
    "warm_start": False,
    "second_branch": "random",
    "loss_counts": "stage",
    "q": 2.0,
    "flow_select": "purity",
    "lr": 1e-2,
    "epochs": 150,
    "eval_every": 5,
}
SHARED = {"heads": "shared", "z": "latent", "cluster_prior": "balanced"}
VARIANTS: dict[str, dict[str, Any]] = {
    "base head": {"depth": 0, "epochs": 0},
    "dlsa_control": {"depth": 0},
    "dlsa": {},
    "control from the stage-1 head": {"depth": 0, "start": "given"},
    "dlsa from the stage-1 head": {"start": "given"},
    "dlsa, depth 3": {"depth": 3},
    "dlsa, random routing": {"routing": "random"},
    "dlsa, counts of the stage": {"loss_counts": "stage"},
    "dlsa, flow of the last epoch": {"flow_select": "last"},
    "dlsa, half routed": {"proportion": 0.5},
    "dlsa, q 0": {"q": 0.0},
    "dlsa, z latent": {"z": "latent"},
    "shared head, z features": {"heads": "shared"},
    "shared head, z features, balanced prior": SHARED | {"z": "features"},
    "shared head, z latent, balanced prior": SHARED,
    "the same, random routing": SHARED | {"routing": "random"},
    "preset latent (nothing routed)": {"preset": "latent"},
    "preset latent, untrained flow": {"preset": "latent", "flow_lr": 1e-12, "flow_epochs": 3, "flow_select": "last"},
    "released heads from scratch": RELEASED,
    "control from scratch": RELEASED | {"depth": 0},
}


def stored(folder: Path) -> tuple[Parts, LinearHead]:
    """Read the features and the stage-1 head that the stages wrote in ``folder``."""
    parts = {part: read_features(folder / f"features/features_{part}.h5") for part in ("train", "val", "test")}
    head = read_head(folder / "features/head.h5", "extract_features").head
    assert isinstance(head, LinearHead)
    return {name: (part.features, part.labels) for name, part in parts.items()}, head


def by_stages(folder: Path, settings: list[str]) -> tuple[Parts, LinearHead]:
    """Do the same after running the stages, unless they have run already."""
    if not (folder / "features/head.h5").is_file():
        write_params(folder, [*settings, "runtime.progress=lines"])
        for stage in STAGES:
            run_stage(folder, stage)
    return stored(folder)


def load(name: str, seed: int, work: Path, options: argparse.Namespace) -> tuple[Parts, LinearHead]:
    """Return the rows of the parts of a dataset, and the stage-1 head."""
    if name == "synthetic":
        parts = hierarchical_features(seed)
        return parts, SoftmaxRegression().fit(*parts["train"]).head_
    if name == "features":
        if options.features is None:
            raise SystemExit("--features must be given for features, got none")
        arrays = np.load(options.features)
        parts = {
            name: (arrays[f"X{t}"], arrays[f"y{t}"].astype(np.int64)) for name, t in (("train", ""), ("test", "t"))
        }
        return parts, SoftmaxRegression(random_state=seed).fit(*parts["train"]).head_
    if name == "digits":
        return by_stages(work / f"digits/{seed}", [f"seed={seed}", f"split_seed={seed}"])
    images = work / "cifar100/images"
    if not (work / f"cifar100/{seed}/features/head.h5").is_file() and not images.is_dir():
        if options.archive is None:
            raise SystemExit("--archive must be given for cifar100, got none")
        unpack(options.archive, images, smoke=False)
    train = ["backbone=resnet20", f"epochs={options.epochs}", "batch_size=128", "augment=crop_flip", "warmup_epochs=1"]
    settings = [
        "dataset=image_folder",
        f"data_root={images.absolute()}",
        "storage=memory",
        "normalize=cifar",
        "imb_factor=100",
        "val_per_class=20",
        f"seed={seed}",
        *(f"train.{setting}" for setting in train),
    ]
    return by_stages(work / f"cifar100/{seed}", settings)


def accuracies(model: HeadClassifier, parts: Parts) -> tuple[float, float]:
    """Return the mean accuracy of all classes, and of those with fewer than 20 training rows, in percent."""
    (_, y), (X_test, y_test) = parts["train"], parts["test"]
    counts, correct = np.bincount(y), model.predict(X_test) == y_test
    by_class = np.array([correct[y_test == c].mean() for c in range(len(counts))])
    return 100 * by_class.mean(), 100 * by_class[counts < 20].mean()


def create_head(entry: HeadEntry, head: LinearHead, seed: int) -> HeadClassifier:
    """Create an unfitted head with the default parameters. It gets the stage-1 head and the seed if it takes them."""
    params = entry.params()
    offered: dict[str, Any] = {**vars(params), **entry.arguments(params), "head": head, "random_state": seed}
    taken = inspect.signature(entry.estimator).parameters
    return entry.estimator(**{name: value for name, value in offered.items() if name in taken})


def models(head: LinearHead, seed: int, fast: dict[str, Any], only: str) -> dict[str, HeadClassifier]:
    """Return the unfitted model of each row whose name contains ``only``, and of the control."""
    rows = {name: create_head(entry, head, seed) for name, entry in HEADS.entries().items()}
    for name, kw in VARIANTS.items():
        shorter = {key: min(value, kw.get(key, value)) for key, value in fast.items()}
        rows[name] = DLSA(head=head if "start" in kw else None, random_state=seed, **kw | shorter)
    return {name: model for name, model in rows.items() if only in name or name == "dlsa_control"}


def compare(name: str, options: argparse.Namespace, work: Path) -> dict[str, np.ndarray]:
    """Map each method to its scores, (splits, repeats, 2): all and few."""
    fast = {"epochs": 2, "flow_epochs": 2} if options.smoke else {}
    found: dict[str, np.ndarray] = {}
    for split in range(options.seeds):
        parts, head = load(name, split, work, options)
        for repeat in range(options.repeats):
            starts = None
            for method, model in models(head, split + 1000 * repeat, fast, options.only).items():
                takes_val = "X_val" in inspect.signature(model.fit).parameters
                shared = isinstance(model, DLSA) and model.head is None and model.warm_start is not False
                model.fit(
                    *parts["train"],
                    *(parts.get("val", ()) if takes_val else ()),
                    **({"starts": starts} if shared else {}),
                )
                starts = model.starts_ if shared else starts  # the base heads depend on the rows and the seed alone
                scores = found.setdefault(method, np.empty((options.seeds, options.repeats, 2)))
                scores[split, repeat] = accuracies(model, parts)
    rows = ", ".join(f"{part} {len(y):,}" for part, (_, y) in parts.items())
    counts = np.bincount(parts["train"][1])
    print(f"\n### {name}\n\n{rows} rows, {len(counts)} classes of {counts.max()} to {counts.min()}", end="; ")
    print(f"{options.seeds} splits with {options.repeats} training seeds each\n")
    return found


def report(found: dict[str, np.ndarray]) -> None:
    """Print means over all runs, standard deviations over splits, and the gain over the control in each split."""
    lines = []
    for method, scores in found.items():
        by_split = scores.mean(axis=1)
        gain = (scores - found["dlsa_control"]).mean(axis=1)
        cells = [f"{s.mean():.2f} ± {s.std(ddof=1):.2f}" if len(s) > 1 else f"{s.mean():.2f}" for s in by_split.T]
        each = ", ".join(f"{value:+.2f}" for value in gain[:, 0])
        lines.append([method, *cells, f"{gain[:, 0].mean():+.2f}", f"{gain[:, 1].mean():+.2f}", each])
    print(
        table(
            ["method", "all", "few", "all minus control", "few minus control", "all minus control, each split"], lines
        )
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", default=["digits", "synthetic"], help=", ".join(SETS))
    parser.add_argument("--seeds", type=int, default=3, help="number of splits, each with its own backbone")
    parser.add_argument("--repeats", type=int, default=1, help="training seeds per method and split")
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    parser.add_argument("--features", type=Path, help=".npz file, for features")
    parser.add_argument("--archive", type=Path, help="cifar100-images.tar.gz, for cifar100")
    parser.add_argument("--work", type=Path, help="folder that keeps features between runs")
    parser.add_argument("--epochs", type=int, default=12, help="epochs of the backbone for cifar100")
    parser.add_argument("--smoke", action="store_true", help="a few epochs: does the script work?")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.sets) - set(SETS))
    if unknown:
        parser.error(f"SET must be one of {', '.join(SETS)}, got {unknown[0]}")
    print(f"{machine('torch', 'scikit-learn')}; percent, mean ± standard deviation over splits")
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sets:
            report(compare(name, options, options.work or Path(folder)))


if __name__ == "__main__":
    main()
