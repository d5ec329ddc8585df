"""Draw the long-tailed split: ``data/split.csv`` and ``data/class_counts.csv``."""

import numpy as np
import pandas as pd

from longtail.artifacts.tables import write_csv
from longtail.data.manifest import read_manifest
from longtail.data.splits import make_split
from stages.common import CLASS_COUNTS, PREPARED, SPLIT, SPLIT_COLUMNS, params, run


def main() -> None:
    p = params()
    manifest = read_manifest(PREPARED)
    split = make_split(
        manifest.labels,
        manifest.parts,
        manifest.class_names,
        imb_type=p.imb_type,
        imb_factor=p.imb_factor,
        val_per_class=p.val_per_class,
        split_seed=p.split_seed,
    )
    parts = {"train": split.train, "val": split.val, "test": split.test}
    index = np.concatenate(list(parts.values()))
    part = np.repeat(list(parts), [len(rows) for rows in parts.values()])
    write_csv(SPLIT, pd.DataFrame(dict(zip(SPLIT_COLUMNS, (part, index, manifest.labels[index]), strict=True))))
    num_classes = len(manifest.class_names)
    counts = {name: np.bincount(manifest.labels[rows], minlength=num_classes) for name, rows in parts.items()}
    write_csv(CLASS_COUNTS, pd.DataFrame({"label": range(num_classes), "name": manifest.class_names, **counts}))
    train = counts["train"]
    print(f"train {train.sum()} images ({train.max()} to {train.min()} a class), ", end="")
    print(f"val {len(split.val)}, test {len(split.test)}")


if __name__ == "__main__":
    run(main)
