"""The common form of every source of labeled images, before subsampling."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from longtail.core.errors import DataError
from longtail.core.head import LinearHead

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Source:
    """N labeled images of C classes, either an array or files.

    Attributes:
        class_names: C names in label order.
        labels: (N,) int64 in 0..C-1.
        parts: (N,) strings: ``train``, ``val``, ``test``; ``all`` if the source is not split (a share becomes the test
            part), or ``pool`` (40 images of each class become the test part).
        images: (N, H, W, channels) uint8, or None for files.
        root: the folder of the files, or None for an array.
        paths: N paths relative to ``root``, with ``/``; empty for an array.
        groups: N names of what must stay in one part, such as a camera site or a patient; empty text for an image on
            its own. Empty for none at all.
        digests: SHA-256 of each of the user's own few files that were read (lists, tables, features), by a name that
            does not depend on where the file is.
        columns: further columns of a table beside ``path``, one row per image; None for none.
    """

    class_names: tuple[str, ...]
    labels: np.ndarray
    parts: np.ndarray
    images: np.ndarray | None = None
    root: Path | None = None
    paths: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    digests: dict[str, str] = field(default_factory=dict)
    columns: "pd.DataFrame | None" = None


@dataclass(frozen=True, kw_only=True)
class FeatureSource(Source):
    """N labeled rows of features in place of images.

    Attributes:
        features: (N, D) float32, finite.
        head: a linear head on them, or None.
    """

    features: np.ndarray
    head: LinearHead | None = None


def check_labels(labels: np.ndarray, class_names: Sequence[str], origin: str) -> None:
    """Refuse labels outside 0..C-1 and classes without images. ``origin`` names the data in the message."""
    num_classes = len(class_names)
    if len(labels) == 0:
        raise DataError(f"{origin} must have images, got none")
    if labels.min() < 0 or labels.max() >= num_classes:
        wrong = labels.min() if labels.min() < 0 else labels.max()
        raise DataError(f"{origin} must have labels from 0 to {num_classes - 1}, got {wrong}")
    empty = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
    if len(empty):
        raise DataError(
            f"{origin} must have images of every class, got none of class {empty[0]} ({class_names[empty[0]]})"
        )
