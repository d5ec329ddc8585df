"""Feature files ``features_SPLIT.h5``: pooled backbone outputs with their labels.

The dataset names ``features`` and ``labels`` are those of DLSA's files. A file without our schema attribute is foreign:
only shapes, dtypes and finiteness are checked, and ``label`` is accepted for ``labels``.
"""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from longtail.artifacts.hdf5 import is_foreign, read_hdf5, write_hdf5
from longtail.core.errors import ArtifactError

SCHEMA = "longtail/features/1"
STAGE = "extract_features"
CHECKED_ROWS = 128  # a block that stays in the processor's cache


@dataclass(frozen=True)
class Features:
    """N rows of one split part.

    Attributes:
        features: (N, D) float32, finite, after global average pooling, not normalised.
        labels: (N,) int64.
        index: (N,) int64 into the dataset; 0..N-1 for a foreign file.
        num_classes: C; for a foreign file the largest label + 1.
        dataset: name of the dataset; empty for a foreign file.
        split_digest, backbone_digest: what the rows belong to; empty for a foreign file.
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


def write_features(path: str | Path, content: Features) -> str:
    """Write a feature file and return its content digest; rows that are not finite are refused."""
    _check_finite(content.features, path)
    datasets = {"features": content.features, "labels": content.labels, "index": content.index}
    names = ("num_classes", "dataset", "split_digest", "backbone_digest", "transform")
    return write_hdf5(path, datasets, {name: getattr(content, name) for name in names}, schema=SCHEMA)


def read_features(path: str | Path) -> Features:
    """Read a feature file of ours, verified, or a foreign one, checked.

    Raises:
        ArtifactError: missing, damaged, misshapen, or with a value that is not finite (its row is named).
    """
    path = Path(path)
    if path.is_file() and is_foreign(path, "features"):
        return _read_foreign(path)
    content = read_hdf5(path, schema=SCHEMA, made_by=STAGE)
    datasets, attributes = content.datasets, content.attributes
    _check(path, datasets["features"], datasets["labels"])
    return Features(**datasets, **attributes)  # type: ignore[arg-type]


def _read_foreign(path: Path) -> Features:
    try:
        with h5py.File(path, "r") as file:
            name = "labels" if "labels" in file else "label"
            if name not in file:
                raise ArtifactError(f"{path} has no dataset `labels` (or `label`)")
            features, labels = np.asarray(file["features"]), np.asarray(file[name])
    except (OSError, RuntimeError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged: {error}") from error
    if not np.issubdtype(features.dtype, np.floating) or not np.issubdtype(labels.dtype, np.integer):
        raise ArtifactError(f"{path}: features {features.dtype}, labels {labels.dtype}; floats and integers expected")
    features, labels = features.astype(np.float32, copy=False), labels.reshape(-1).astype(np.int64)
    _check(path, features, labels)
    return Features(features, labels, np.arange(len(labels)), int(labels.max(initial=-1)) + 1)


def _check(path: Path, features: np.ndarray, labels: np.ndarray) -> None:
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ArtifactError(f"{path}: features {features.shape} and labels {labels.shape}; (N, D) and (N,) expected")
    if len(labels) and labels.min() < 0:
        raise ArtifactError(f"{path}: label {labels.min()} given, 0 or more expected")
    _check_finite(features, path)


def _check_finite(features: np.ndarray, path: str | Path) -> None:
    for start in range(0, len(features), CHECKED_ROWS):
        block = features[start : start + CHECKED_ROWS]
        if not np.isfinite(block).all():
            row = start + int(np.argmin(np.isfinite(block).all(axis=1)))
            raise ArtifactError(f"{path}: features must be finite, row {row} is not")
