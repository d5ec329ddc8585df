"""Repair the classifier: ``python -m stages.rebalance METHOD`` writes its head and its predictions."""

import importlib
import sys

import numpy as np

from longtail.errors import ArtifactError, ConfigError
from longtail.heads.base import LinearHead
from longtail.io.features import Features, read_features
from longtail.io.head_files import HeadFile, read_head, write_head
from longtail.io.predictions import build_predictions, write_predictions
from longtail.seeds import derive_seed
from stages.common import HEAD, HEADS, PREDICTIONS, features_file, params, run
from stages.repairs.base import Inputs

METHODS = ("joint", "ncm", "crt", "tau", "lws")


def main(method: str) -> None:
    if method not in METHODS:
        raise ConfigError(f"method: {method!r} given, one of {', '.join(METHODS)} allowed")
    p = params()
    train, test = read_features(features_file("train")), read_features(features_file("test"))
    val, head = None, None
    if not train.foreign:
        val, head = read_features(features_file("val")), read_head(HEAD, "extract_features")
    _check(train, test, val, head)
    notes = {} if head is None else head.notes
    inputs = Inputs(p, train, val, test, _linear(head), notes, derive_seed(p.seed, "rebalance", method) % 2**31)
    repair = importlib.import_module(f"stages.repairs.{method}").fit(inputs)
    write_head(
        HEADS / f"{method}.h5",
        HeadFile(
            method=method,
            kind=repair.kind,
            weight=repair.weight,
            bias=repair.bias,
            scale=1.0,
            split_digest=test.split_digest,
            backbone_digest=test.backbone_digest,
            extra=repair.extra,
            notes=repair.notes,
        ),
    )
    predictions = build_predictions(
        method,
        repair.scores,
        test.labels,
        test.index,
        likelihood=repair.likelihood,
        selected_on_test=repair.selected_on_test,
        split_digest=test.split_digest,
        train_counts=np.bincount(train.labels, minlength=repair.scores.shape[1]),
    )
    write_predictions(PREDICTIONS / f"{method}.h5", predictions)
    remarks = ", ".join(f"{name} {value}" for name, value in repair.notes.items())
    print(f"{method}: {len(test.labels)} test images" + (f" ({remarks})" if remarks else ""))


def _linear(head: HeadFile | None) -> LinearHead | None:
    return None if head is None else LinearHead(head.weight, head.bias, head.kind, head.scale)


def _check(train: Features, test: Features, val: Features | None, head: HeadFile | None) -> None:
    """Refuse files that do not belong together, and labels that are not 0 to C-1."""
    present = np.bincount(train.labels, minlength=train.num_classes) > 0
    if not present.all():
        raise ArtifactError(
            f"features/features_train.h5: no row of class {np.argmin(present)}; labels must be 0 to C-1"
        )
    if len(test.labels) and test.labels.max() >= train.num_classes:
        raise ArtifactError(
            f"features/features_test.h5: label {test.labels.max()}, 0 to {train.num_classes - 1} expected"
        )
    others = {"features_test.h5": test, "features_val.h5": val, "head.h5": head}
    for name, other in others.items():
        if other is None:
            continue
        for what in ("split", "backbone"):
            if getattr(other, f"{what}_digest") != getattr(train, f"{what}_digest"):
                raise ArtifactError(
                    f"features/{name} belongs to another {what} than features/features_train.h5; "
                    "run `dvc repro extract_features`"
                )
        width = other.weight.shape[1] if isinstance(other, HeadFile) else other.features.shape[1]
        if width != train.features.shape[1]:
            raise ArtifactError(
                f"features/{name} has {width} features, features/features_train.h5 has {train.features.shape[1]}"
            )


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m stages.rebalance {{{','.join(METHODS)}}}")
    run(lambda: main(sys.argv[1]))
