"""The prepared dataset and its split, as the stages that train or run a network read them."""

from functools import cached_property

import numpy as np
from PIL.Image import Image

from longtail.artifacts.digest import file_digest
from longtail.artifacts.tables import read_csv
from longtail.augment.transforms import Transform
from longtail.core.errors import ArtifactError
from longtail.data.blends import Blends, blend_pictures, blend_pixels
from longtail.data.manifest import read_manifest, read_pixels, read_row
from longtail.data.splits import Split
from longtail.train.batches import ImageSet, open_part
from stages.context import Context
from stages.paths import BLEND_COLUMNS, PREPARED, SPLIT, SPLIT_COLUMNS


class PreparedImages:
    """The prepared dataset with its split, blended images included. Pixels of a set in memory are read once.

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
        return blend_pixels(read_pixels(PREPARED), self.split.blends) if self.info.storage == "memory" else None

    @property
    def train_pixels(self) -> np.ndarray | None:
        """Pixels of the training images, or None for files."""
        return None if self.pixels is None else self.pixels[self.split.train]

    def open(self, index: np.ndarray, transform: Transform) -> ImageSet:
        """The images ``index`` (n,) on the device, under a transform."""
        context = self._context
        workers = context.runtime.workers
        return open_part(
            self.manifest,
            PREPARED,
            context.data_root,
            index,
            transform,
            context.device,
            workers,
            pixels=self.pixels,
            blends=self.split.blends,
        )

    def picture(self, row: int) -> np.ndarray:
        """(H, W, channels) uint8 of one image of the dataset."""
        if self.pixels is not None:
            return self.pixels[row]
        blends = self.split.blends
        picture, partner = self._read(row), blends.partner[blends.image == row]
        return np.asarray(
            blend_pictures(picture, self._read(int(partner[0])), blends.head_weight) if len(partner) else picture
        )

    def _read(self, row: int) -> Image:
        return read_row(self.manifest, str(self._context.data_root), row)

    def digests(self) -> list[str]:
        """Digests of the split and of all files of the prepared dataset."""
        return [self.split_digest, *(file_digest(path) for path in sorted(PREPARED.iterdir()))]


def read_split() -> tuple[Split, str]:
    """The split, and the digest of its file."""
    table = read_csv(SPLIT, made_by="subsample", columns=SPLIT_COLUMNS, optional=BLEND_COLUMNS, text=("part",))
    index, part = table["index"].to_numpy(np.int64), table["part"].to_numpy(str)
    blends = Blends()
    if "partner" in table:
        blended = table[table["partner"] >= 0]
        weights = blended["head_weight"].unique()
        if len(weights) != 1:
            raise ArtifactError(SPLIT, "is damaged (blended images must have one head_weight)", "subsample")
        blends = Blends(blended["index"].to_numpy(np.int64), blended["partner"].to_numpy(np.int64), float(weights[0]))
    train, val, test = (index[part == name] for name in ("train", "val", "test"))
    return Split(train, val, test, blends), file_digest(SPLIT)
