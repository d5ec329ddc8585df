"""The feature files and the stage-1 head, checked to belong together."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.features import Features, read_features
from longtail.artifacts.hdf5 import is_foreign
from longtail.artifacts.head_files import HeadFile, read_foreign_head, read_head
from longtail.core.errors import ArtifactError
from longtail.methods.heads.base import LinearHead
from stages.paths import HEAD, features_file


@dataclass(frozen=True)
class FeatureSet:
    """Features of the split parts and the stage-1 head, with the remarks of its file.

    With foreign features, val and head are there only if they are foreign too.
    """

    train: Features
    val: Features | None
    test: Features
    head: LinearHead | None
    head_notes: dict[str, Scalar]

    @property
    def files(self) -> list[Path]:
        """The files that all of this was read from."""
        parts = [features_file(part) for part in ("train", "val", "test") if getattr(self, part) is not None]
        return parts + [HEAD] * (self.head is not None)

    def rows(self, part: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """X (N, D) and y (N,) of a part; both None where it holds no rows."""
        features: Features | None = getattr(self, part)
        if features is None or len(features.labels) == 0:
            return None, None
        return features.features, features.labels

    @property
    def train_counts(self) -> np.ndarray:
        """(C,) int64: training rows of each class."""
        return np.bincount(self.train.labels, minlength=self.train.num_classes)


def read_feature_set() -> FeatureSet:
    """Read and check the files below ``features/``."""
    train, test = read_features(features_file("train")), read_features(features_file("test"))
    val = _read_val(train)
    if train.foreign:
        _check(train, test, val, None)
        return FeatureSet(train, val, test, _read_foreign_head(train), {})
    stored = read_head(HEAD, "extract_features")
    _check(train, test, val, stored)
    head = LinearHead(stored.weight, stored.bias, stored.kind, stored.scale)
    return FeatureSet(train, val, test, head, stored.notes)


def _read_foreign_head(train: Features) -> LinearHead | None:
    if not HEAD.is_file() or not is_foreign(HEAD, "weight"):
        return None
    weight, bias = read_foreign_head(HEAD)
    expected = (train.num_classes, train.features.shape[1])
    if weight.shape != expected:
        raise ArtifactError(f"{HEAD}: weight must be {expected}, one row per class, got {weight.shape}")
    return LinearHead(weight, bias)


def _read_val(train: Features) -> Features | None:
    path = features_file("val")
    if train.foreign and not path.is_file():
        return None
    val = read_features(path)
    return None if train.foreign and not val.foreign else val


def _check(train: Features, test: Features, val: Features | None, head: HeadFile | None) -> None:
    """Refuse files that do not belong together, and labels that are not 0 to C-1."""
    present = np.bincount(train.labels, minlength=train.num_classes) > 0
    if not present.all():
        raise ArtifactError(
            f"features/features_train.h5: no row of class {np.argmin(present)}; labels must be 0 to C-1"
        )
    for name, part in (("test", test), ("val", val)):
        if part is not None and len(part.labels) and part.labels.max() >= train.num_classes:
            raise ArtifactError(
                f"features/features_{name}.h5: label {part.labels.max()}, 0 to {train.num_classes - 1} expected"
            )
    others = {"features_test.h5": test, "features_val.h5": val, "head.h5": head}
    for file, other in others.items():
        if other is None:
            continue
        for what in ("split", "backbone"):
            if getattr(other, f"{what}_digest") != getattr(train, f"{what}_digest"):
                raise ArtifactError(
                    f"features/{file} belongs to another {what} than features/features_train.h5; "
                    "run `dvc repro extract_features`"
                )
        width = other.weight.shape[1] if isinstance(other, HeadFile) else other.features.shape[1]
        if width != train.features.shape[1]:
            raise ArtifactError(
                f"features/{file} has {width} features, features/features_train.h5 has {train.features.shape[1]}"
            )
