"""Draw the long-tailed split: ``data/split.csv`` and ``data/class_counts.csv``."""

import numpy as np
import pandas as pd

from longtail.artifacts.tables import write_csv
from longtail.data.manifest import read_manifest
from longtail.data.params import SimilarParams, SplitParams
from longtail.data.splits import Split, split_dataset
from stages.context import Context, run
from stages.paths import BLEND_COLUMNS, CLASS_COUNTS, PREPARED, SPLIT, SPLIT_COLUMNS


def main() -> None:
    context = Context("subsample")
    params, similar = context.top_level(SplitParams), context.group(SimilarParams)
    manifest = read_manifest(PREPARED)
    split = split_dataset(manifest, params, similar)
    parts = {"train": split.train, "val": split.val, "test": split.test}
    index = np.concatenate(list(parts.values()))
    part = np.repeat(list(parts), [len(rows) for rows in parts.values()])
    table = dict(zip(SPLIT_COLUMNS, (part, index, manifest.labels[index]), strict=True))
    write_csv(SPLIT, pd.DataFrame(table | blend_columns(split)))
    num_classes = len(manifest.class_names)
    counts = {name: np.bincount(manifest.labels[rows], minlength=num_classes) for name, rows in parts.items()}
    write_csv(CLASS_COUNTS, pd.DataFrame({"label": range(num_classes), "name": manifest.class_names, **counts}))
    train = counts["train"]
    print(f"train {train.sum()} images ({train.max()} to {train.min()} per class), ", end="")
    print(f"val {len(split.val)}, test {len(split.test)}")
    if similar.head is not None:
        print(
            f"similar: {len(split.blends)} images of {similar.head} are blended with images of {similar.tail}, "
            f"{similar.head_weight:g} of the one and {1 - similar.head_weight:g} of the other"
        )


def blend_columns(split: Split) -> dict[str, np.ndarray]:
    """Further columns of the split: the partner of each blended image (-1 for none) and its own weight."""
    if not len(split.blends):
        return {}
    rows = sum(len(part) for part in (split.train, split.val, split.test))
    partner, weight = np.full(rows, -1), np.ones(rows)
    # Training rows come first, each image once.
    position = dict(zip(split.train.tolist(), range(len(split.train)), strict=True))
    blended = [position[image] for image in split.blends.image.tolist()]
    partner[blended], weight[blended] = split.blends.partner, split.blends.head_weight
    return dict(zip(BLEND_COLUMNS, (partner, weight), strict=True))


if __name__ == "__main__":
    run(main)
