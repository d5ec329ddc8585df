"""The prepared dataset and its split, as the stages that train or run a network read them."""

from functools import cached_property
from pathlib import Path

import numpy as np

from longtail.artifacts.digest import file_digest
from longtail.artifacts.tables import read_csv
from longtail.augment.transforms import Transform
from longtail.data.manifest import decode, read_manifest, read_pixels, read_verified
from longtail.data.splits import Split
from longtail.train.batches import ImageSet, open_part
from stages.context import Context
from stages.paths import PREPARED, SPLIT, SPLIT_COLUMNS


class PreparedImages:
    """The prepared dataset with its split. Pixels of a set in memory are read once.

    Attributes:
        manifest: the dataset without its pixels.
        split, split_digest: train, val and test indices, and the digest of their file.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self.manifest = read_manifest(PREPARED)
        self.split, self.split_digest = read_split()

    @property
    def info(self):  # type: ignore[no-untyped-def]
        """The dataset's ``DatasetInfo``."""
        return self.manifest.info

    @cached_property
    def pixels(self) -> np.ndarray | None:
        """(N, H, W, channels) uint8, or None for files."""
        return read_pixels(PREPARED) if self.info.storage == "memory" else None

    @property
    def train_pixels(self) -> np.ndarray | None:
        """Pixels of the training images, or None for files."""
        return None if self.pixels is None else self.pixels[self.split.train]

    def open(self, index: np.ndarray, transform: Transform) -> ImageSet:
        """The images ``index`` (n,) on the device, under a transform."""
        context = self._context
        workers = context.runtime.workers
        return open_part(
            self.manifest, PREPARED, context.data_root, index, transform, context.device, workers, self.pixels
        )

    def picture(self, row: int) -> np.ndarray:
        """(H, W, channels) uint8 of one image of the dataset."""
        if self.pixels is not None:
            return self.pixels[row]
        root, path = Path(str(self._context.data_root)), str(self.manifest.paths[row])
        return np.asarray(decode(read_verified(root, path, str(self.manifest.sha256[row])), root / path))

    def digests(self) -> list[str]:
        """Digests of the split and of all files of the prepared dataset."""
        return [self.split_digest, *(file_digest(path) for path in sorted(PREPARED.iterdir()))]


def read_split() -> tuple[Split, str]:
    """The split, and the digest of its file."""
    table = read_csv(SPLIT, made_by="subsample", columns=SPLIT_COLUMNS, text=("part",))
    index, part = table["index"].to_numpy(np.int64), table["part"].to_numpy(str)
    return Split(*(index[part == name] for name in ("train", "val", "test"))), file_digest(SPLIT)
