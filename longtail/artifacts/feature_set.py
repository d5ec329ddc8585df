"""The files of one ``features/`` folder, read together and checked against each other."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.features import STAGE, Features, read_features
from longtail.artifacts.hdf5 import is_foreign
from longtail.artifacts.head_files import HeadFile, NetworkSize, read_foreign_head, read_head
from longtail.core.errors import ArtifactError
from longtail.core.head import LinearHead

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class FeatureSet:
    """Features of the parts of the split, and the stage-1 head.

    With foreign features, ``val`` and ``head`` are used only if they are foreign too, and are None otherwise.

    Attributes:
        folder: the folder of the files.
        train, val, test: rows of each part.
        head: the stage-1 head.
        head_notes: how the head was chosen.
        network: the size of the network that computed the features.
    """

    folder: Path
    train: Features
    val: Features | None
    test: Features
    head: LinearHead | None
    head_notes: dict[str, Scalar] = field(default_factory=dict)
    network: NetworkSize | None = None

    @property
    def files(self) -> list[Path]:
        """The files that were read."""
        parts = [features_file(self.folder, part) for part in PARTS if getattr(self, part) is not None]
        return parts + [head_file(self.folder)] * (self.head is not None)

    def rows(self, part: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """X (N, D) and y (N,) of a part; both None if it has no rows."""
        features: Features | None = getattr(self, part)
        if features is None or len(features.labels) == 0:
            return None, None
        return features.features, features.labels

    @property
    def train_counts(self) -> np.ndarray:
        """(C,) int64: training rows of each class."""
        return np.bincount(self.train.labels, minlength=self.train.num_classes)


def features_file(folder: Path, part: str) -> Path:
    """The feature file of one part: ``train``, ``val`` or ``test``."""
    return folder / f"features_{part}.h5"


def head_file(folder: Path) -> Path:
    """The file of the stage-1 head."""
    return folder / "head.h5"


def read_feature_set(folder: Path) -> FeatureSet:
    """Read the files of ``folder`` and check that they belong together.

    Raises:
        ArtifactError: a file is missing or damaged, does not match the training features, or has labels other than
            0 to C-1.
    """
    train, test = (read_features(features_file(folder, part)) for part in ("train", "test"))
    val = _read_val(folder, train)
    _check_labels(folder, train, test, val)
    path = head_file(folder)
    if train.foreign:
        _check_match(folder, train, {"test": test, "val": val})
        return FeatureSet(folder, train, val, test, _read_foreign_head(path, train))
    stored = read_head(path, STAGE)
    if not isinstance(stored.head, LinearHead):
        raise ArtifactError(path, f"must hold a linear head, got one of {stored.method}", STAGE)
    _check_match(folder, train, {"test": test, "val": val, "head": stored})
    return FeatureSet(folder, train, val, test, stored.head, stored.notes, stored.network)


def _read_foreign_head(path: Path, train: Features) -> LinearHead | None:
    if not path.is_file() or not is_foreign(path, "weight"):
        return None
    head = read_foreign_head(path)
    expected = (train.num_classes, train.features.shape[1])
    if head.weight.shape != expected:
        raise ArtifactError(
            path, f"must have a weight {expected} (classes, features) like the features, got {head.weight.shape}"
        )
    return head


def _read_val(folder: Path, train: Features) -> Features | None:
    path = features_file(folder, "val")
    if train.foreign and not path.is_file():
        return None
    val = read_features(path)
    return None if train.foreign and not val.foreign else val


def _maker(features: Features) -> str | None:
    return None if features.foreign else STAGE


def _check_labels(folder: Path, train: Features, test: Features, val: Features | None) -> None:
    present = np.bincount(train.labels, minlength=train.num_classes) > 0
    if not present.all():
        raise ArtifactError(
            features_file(folder, "train"),
            f"must have rows of every class 0 to {train.num_classes - 1}, got none of class {np.argmin(present)}",
            _maker(train),
        )
    for name, part in (("test", test), ("val", val)):
        if part is not None and len(part.labels) and part.labels.max() >= train.num_classes:
            raise ArtifactError(
                features_file(folder, name),
                f"must have labels from 0 to {train.num_classes - 1}, got label {part.labels.max()}",
                _maker(part),
            )


def _check_match(folder: Path, train: Features, others: dict[str, Features | HeadFile | None]) -> None:
    """Refuse files of another split, backbone or width than the training features."""
    first, num_features = features_file(folder, "train"), train.features.shape[1]
    for name, other in others.items():
        if other is None:
            continue
        path = head_file(folder) if isinstance(other, HeadFile) else features_file(folder, name)
        for what in ("split", "backbone"):
            if getattr(other, f"{what}_digest") != getattr(train, f"{what}_digest"):
                raise ArtifactError(path, f"belongs to another {what} than {first}", STAGE)
        if isinstance(other, HeadFile):
            assert isinstance(other.head, LinearHead)
            width = other.head.weight.shape[1]
        else:
            width = other.features.shape[1]
        if width != num_features:
            raise ArtifactError(path, f"has {width} features, but {first} has {num_features}", _maker(train))
