"""Fit one head: ``python -m stages.rebalance METHOD`` writes the head and its predictions."""

import importlib
import inspect
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from longtail.artifacts.digest import Scalar, file_digest
from longtail.artifacts.feature_set import FeatureSet
from longtail.artifacts.head_files import HeadFile, write_head
from longtail.artifacts.predictions import build_predictions, write_predictions
from longtail.core.errors import ConfigError
from longtail.core.head import Head
from longtail.core.params import Group
from longtail.core.seeds import derive_seed
from longtail.methods.heads import HEADS, HeadEntry
from longtail.train.checkpointing import CheckpointStore
from stages.context import Context, run
from stages.features import read_feature_set
from stages.paths import HEADS as HEAD_FILES
from stages.paths import PREDICTIONS


@dataclass(frozen=True)
class FittedHead:
    """A fitted head and its scores.

    Attributes:
        head: its weights, class means or neighbors.
        scores: (M, C) of the test rows.
        arrays, notes: further arrays of the head file, and what was chosen.
    """

    head: Head
    scores: np.ndarray
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Scalar] = field(default_factory=dict)


def main(method: str) -> None:
    HEADS.module(method)  # refuses an unknown name
    context = Context("rebalance", method)
    entry = HEADS.get(method)
    params = context.group(entry.params)
    features = read_feature_set()
    if getattr(params, "select", "last") == "best_val" and features.rows("val")[0] is None:
        raise ConfigError(
            f"{method}.select must be last, got best_val: the split has no validation images; set val_per_class above 0"
        )
    seed = derive_seed(context.seed, "rebalance", method) % 2**31
    if getattr(params, "mode", "cached") == "online":
        online = importlib.import_module("stages.online_heads")
        fitted = FittedHead(**online.fit(context, method, params, features, seed))
    else:
        fitted = fit(context, entry, params, features, seed)
    test = features.test
    write_head(
        HEAD_FILES / f"{method}.h5",
        HeadFile(
            method=method,
            head=fitted.head,
            split_digest=test.split_digest,
            backbone_digest=test.backbone_digest,
            network=features.network,
            extra=fitted.arrays,
            notes=fitted.notes,
        ),
    )
    predictions = build_predictions(
        method,
        fitted.scores,
        test.labels,
        test.index,
        likelihood=entry.likelihood,
        selected_on_test=entry.selects_on(params) == "test",
        split_digest=test.split_digest,
        train_counts=features.train_counts,
    )
    write_predictions(PREDICTIONS / f"{method}.h5", predictions)
    remarks = ", ".join(f"{name} {value}" for name, value in fitted.notes.items())
    print(f"{method}: {len(test.labels)} test images" + (f" ({remarks})" if remarks else ""))


def fit(context: Context, entry: HeadEntry, params: Group, features: FeatureSet, seed: int) -> FittedHead:
    """Fit the estimator on the stored features."""
    taken = inspect.signature(entry.estimator).parameters
    offered: dict[str, Any] = {**vars(params), **entry.arguments(params)}
    offered |= {"head": features.head, "progress": context.runtime.progress, "random_state": seed}
    if "device" in taken:
        offered["device"] = str(context.device)
    estimator: Any = entry.estimator(**{name: value for name, value in offered.items() if name in taken})
    # The base head was fitted on augmented views too, if there are any; so is the row of it.
    rows: list[Any] = list(features.train.with_views() if entry.is_stage1 else features.rows("train"))
    arguments = inspect.signature(estimator.fit).parameters
    if "X_val" in arguments:
        rows += features.rows(entry.selects_on(params))
    if "store" not in arguments:
        estimator.fit(*rows)
    else:
        with context.scratch([file_digest(path) for path in features.files]) as scratch:
            estimator.fit(*rows, store=CheckpointStore(scratch.folder, context.runtime.checkpoint_every))
            scratch.clear()
    notes = (dict(features.head_notes) if entry.is_stage1 else {}) | entry.notes(estimator, params)
    scores = estimator.scores(features.test.features)
    return FittedHead(estimator.head_, scores, entry.arrays(estimator, params), notes)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m stages.rebalance {{{','.join(HEADS.available())}}}")
    run(lambda: main(sys.argv[1]))
