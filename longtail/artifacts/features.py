"""Feature files ``features_PART.h5``: pooled backbone outputs with their labels.

The dataset names ``features`` and ``labels`` are those of DLSA's files.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.artifacts.hdf5 import has_trailer, read_hdf5, write_hdf5
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
        index: (N,) int64, rows of the dataset.
        num_classes: C.
        dataset: name of the dataset.
        split_digest, backbone_digest: the split and the backbone that the rows come from. For a dataset that is
            features, its prepared rows take the place of the backbone.
        transform: how the images were prepared, as JSON text; empty for a dataset that is features.
        views: (k, N, D) float32, features of k augmented views of the same images, or None.
    """

    features: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    num_classes: int
    dataset: str
    split_digest: str
    backbone_digest: str
    transform: str
    views: np.ndarray | None = None

    def with_views(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows ((k + 1) N, D) and labels of the images and all their views."""
        if self.views is None:
            return self.features, self.labels
        return np.concatenate([self.features, *self.views]), np.tile(self.labels, len(self.views) + 1)


def write_features(path: str | Path, content: Features) -> None:
    """Write a feature file. Raises ArtifactError for a value that is not finite."""
    _check_finite(content.features, path)
    datasets = {name: getattr(content, name) for name in _DATASETS}
    if content.views is not None:
        for view in content.views:
            _check_finite(view, path)
        datasets["views"] = content.views
    write_hdf5(path, datasets, {name: getattr(content, name) for name in _ATTRIBUTES}, schema=SCHEMA)


def read_features(path: str | Path) -> Features:
    """Read a verified feature file.

    Raises:
        ArtifactError: the file is missing or damaged, has arrays of the wrong shape or dtype, or has a value that is
            not finite (the message names the row).
    """
    path = Path(path)
    if path.is_file() and not has_trailer(path):
        problem = "is truncated or was not written by longtail (features of your own are a dataset, dataset: features)"
        raise ArtifactError(path, problem, STAGE)
    content = read_hdf5(path, schema=SCHEMA, made_by=STAGE)
    values = content.datasets | content.attributes
    missing = [name for name in (*_DATASETS, *_ATTRIBUTES) if name not in values]
    if missing:
        raise ArtifactError(path, f"lacks {', '.join(missing)}", STAGE)
    _check(path, content.datasets["features"], content.datasets["labels"])
    names = [*_DATASETS, *_ATTRIBUTES, *(["views"] if "views" in values else [])]
    return Features(**{name: values[name] for name in names})  # type: ignore[arg-type]


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
