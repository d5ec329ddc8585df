"""Feature files ``features_PART.h5``: pooled backbone outputs with their labels.

The dataset names ``features`` and ``labels`` are those of DLSA's files. A file without our schema attribute is foreign:
only its shapes, dtypes and finiteness are checked, and its labels may also be called ``label``.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from longtail.artifacts.hdf5 import is_foreign, read_hdf5, write_hdf5
from longtail.core.errors import ArtifactError

SCHEMA = "longtail/features/1"
STAGE = "extract_features"
CHECKED_ROWS = 128  # a block that fits in the processor's cache
_DATASETS = ("features", "labels", "index")
_ATTRIBUTES = ("num_classes", "dataset", "split_digest", "backbone_digest", "transform")


@dataclass(frozen=True)
class Features:
    """N rows of one part of the split.

    Attributes:
        features: (N, D) float32, finite, after global average pooling, not normalized.
        labels: (N,) int64.
        index: (N,) int64, rows of the dataset; 0..N-1 for a foreign file.
        num_classes: C; for a foreign file the largest label + 1.
        dataset: name of the dataset; empty for a foreign file.
        split_digest, backbone_digest: the split and the backbone that the rows come from; empty for a foreign file.
        transform: how the images were prepared, as JSON text; empty for a foreign file.
    """

    features: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    num_classes: int
    dataset: str = ""
    split_digest: str = ""
    backbone_digest: str = ""
    transform: str = ""

    @property
    def foreign(self) -> bool:
        return not self.split_digest


def write_features(path: str | Path, content: Features) -> None:
    """Write a feature file. Raises ArtifactError for a value that is not finite."""
    _check_finite(content.features, path)
    datasets = {name: getattr(content, name) for name in _DATASETS}
    write_hdf5(path, datasets, {name: getattr(content, name) for name in _ATTRIBUTES}, schema=SCHEMA)


def read_features(path: str | Path) -> Features:
    """Read a verified feature file of ours, or check and read a foreign one.

    Raises:
        ArtifactError: the file is missing or damaged, has arrays of the wrong shape or dtype, or has a value that is
            not finite (the message names the row).
    """
    path = Path(path)
    if path.is_file() and is_foreign(path, "features"):
        return _read_foreign(path)
    content = read_hdf5(path, schema=SCHEMA, made_by=STAGE)
    values = content.datasets | content.attributes
    missing = [name for name in (*_DATASETS, *_ATTRIBUTES) if name not in values]
    if missing:
        raise ArtifactError(path, f"lacks {', '.join(missing)}", STAGE)
    _check(path, content.datasets["features"], content.datasets["labels"])
    return Features(**{name: values[name] for name in (*_DATASETS, *_ATTRIBUTES)})  # type: ignore[arg-type]


def _read_foreign(path: Path) -> Features:
    try:
        with h5py.File(path, "r") as file:
            name = "labels" if "labels" in file else "label"
            if name not in file:
                raise ArtifactError(path, "has no dataset `labels` (or `label`)")
            features, labels = np.asarray(file["features"]), np.asarray(file[name])
    except (OSError, RuntimeError, TypeError) as error:
        raise ArtifactError(path, f"is damaged ({error})") from error
    if not np.issubdtype(features.dtype, np.floating) or not np.issubdtype(labels.dtype, np.integer):
        raise ArtifactError(
            path,
            f"must have features that are floats and labels that are integers, got {features.dtype} and {labels.dtype}",
        )
    features, labels = features.astype(np.float32, copy=False), labels.reshape(-1).astype(np.int64)
    _check(path, features, labels)
    return Features(features, labels, np.arange(len(labels)), int(labels.max(initial=-1)) + 1)


def _check(path: Path, features: np.ndarray, labels: np.ndarray) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ArtifactError(path, f"must have features (N, D) and labels (N,), got {features.shape} and {labels.shape}")
    if len(labels) and labels.min() < 0:
        raise ArtifactError(path, f"must have labels of at least 0, got {labels.min()}")
    _check_finite(features, path)


def _check_finite(features: np.ndarray, path: str | Path) -> None:
    for start in range(0, len(features), CHECKED_ROWS):
        block = features[start : start + CHECKED_ROWS]
        if not np.isfinite(block).all():
            row = start + int(np.argmin(np.isfinite(block).all(axis=1)))
            raise ArtifactError(path, f"must have finite features, but row {row} is not finite")
