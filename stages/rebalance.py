"""Repair the classifier: ``python -m stages.rebalance METHOD`` writes its head and its predictions."""

import importlib
import sys

from longtail.artifacts.head_files import HeadFile, write_head
from longtail.artifacts.predictions import build_predictions, write_predictions
from longtail.core.errors import ConfigError
from longtail.core.seeds import derive_seed
from stages.common import HEADS, PREDICTIONS, params, run
from stages.inputs import read_feature_set
from stages.repairs.base import Inputs

METHODS = ("joint", "ncm", "crt", "tau", "lws", "logit_adjustment")


def main(method: str) -> None:
    if method not in METHODS:
        raise ConfigError(f"method: {method!r} given, one of {', '.join(METHODS)} allowed")
    p = params()
    found = read_feature_set()
    train, test = found.train, found.test
    seed = derive_seed(p.seed, "rebalance", method) % 2**31
    inputs = Inputs(p, train, found.val, test, found.head, found.head_notes, seed)
    repair = importlib.import_module(f"stages.repairs.{method}").fit(inputs)
    write_head(
        HEADS / f"{method}.h5",
        HeadFile(
            method=method,
            head=repair.head,
            split_digest=test.split_digest,
            backbone_digest=test.backbone_digest,
            network=found.network,
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
        train_counts=found.train_counts,
    )
    write_predictions(PREDICTIONS / f"{method}.h5", predictions)
    remarks = ", ".join(f"{name} {value}" for name, value in repair.notes.items())
    print(f"{method}: {len(test.labels)} test images" + (f" ({remarks})" if remarks else ""))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m stages.rebalance {{{','.join(METHODS)}}}")
    run(lambda: main(sys.argv[1]))
