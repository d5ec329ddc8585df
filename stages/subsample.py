"""Draw the long-tailed split: ``data/split.csv`` and ``data/class_counts.csv``."""

import numpy as np
import pandas as pd

from longtail.artifacts.tables import write_csv
from longtail.data.manifest import read_manifest
from longtail.data.params import SplitParams
from longtail.data.splits import make_split
from stages.context import Context, run
from stages.paths import CLASS_COUNTS, PREPARED, SPLIT, SPLIT_COLUMNS


def main() -> None:
    params = Context("subsample").top_level(SplitParams)
    manifest = read_manifest(PREPARED)
    split = make_split(
        manifest.labels,
        manifest.parts,
        manifest.class_names,
        imb_type=params.imb_type,
        imb_factor=params.imb_factor,
        val_per_class=params.val_per_class,
        split_seed=params.split_seed,
    )
    parts = {"train": split.train, "val": split.val, "test": split.test}
    index = np.concatenate(list(parts.values()))
    part = np.repeat(list(parts), [len(rows) for rows in parts.values()])
    write_csv(SPLIT, pd.DataFrame(dict(zip(SPLIT_COLUMNS, (part, index, manifest.labels[index]), strict=True))))
    num_classes = len(manifest.class_names)
    counts = {name: np.bincount(manifest.labels[rows], minlength=num_classes) for name, rows in parts.items()}
    write_csv(CLASS_COUNTS, pd.DataFrame({"label": range(num_classes), "name": manifest.class_names, **counts}))
    train = counts["train"]
    print(f"train {train.sum()} images ({train.max()} to {train.min()} per class), ", end="")
    print(f"val {len(split.val)}, test {len(split.test)}")


if __name__ == "__main__":
    run(main)
