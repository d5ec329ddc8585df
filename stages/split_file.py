"""Reading the split that ``subsample`` wrote."""

import numpy as np

from longtail.artifacts.digest import file_digest
from longtail.artifacts.tables import read_csv
from longtail.data.splits import Split
from stages.common import PREPARED, SPLIT, SPLIT_COLUMNS


def read_split() -> tuple[Split, str]:
    """The split and the digest of its file."""
    table = read_csv(SPLIT, made_by="subsample", columns=SPLIT_COLUMNS, text=("part",))
    index, part = table["index"].to_numpy(np.int64), table["part"].to_numpy(str)
    return Split(*(index[part == name] for name in ("train", "val", "test"))), file_digest(SPLIT)


def prepared_digests() -> list[str]:
    """Digests of all files of the prepared dataset, part of what unfinished training is keyed by."""
    return [file_digest(path) for path in sorted(PREPARED.iterdir())]
