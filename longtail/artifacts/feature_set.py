"""The files of one ``features/`` folder, read together and checked against each other."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.features import STAGE, Features, read_features
from longtail.artifacts.head_files import HeadFile, NetworkSize, read_head
from longtail.core.errors import ArtifactError
from longtail.core.head import LinearHead

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class FeatureSet:
    """Features of the parts of the split, and the stage-1 head.

    Attributes:
        folder: the folder of the files.
        train, val, test: rows of each part.
        head: the stage-1 head.
        head_notes: how the head was chosen.
        network: the size of the network that computed the features, or None if unknown.
    """

    folder: Path
    train: Features
    val: Features
    test: Features
    head: LinearHead
    head_notes: dict[str, Scalar] = field(default_factory=dict)
    network: NetworkSize | None = None

    @property
    def files(self) -> list[Path]:
        """The files that were read."""
        return [*(features_file(self.folder, part) for part in PARTS), head_file(self.folder)]

    def rows(self, part: str) -> tuple[np.ndarray | None, np.ndarray | None]:
        """X (N, D) and y (N,) of a part; both None if it has no rows."""
        features: Features = getattr(self, part)
        if len(features.labels) == 0:
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
    train, val, test = (read_features(features_file(folder, part)) for part in PARTS)
    _check_labels(folder, train, test, val)
    path = head_file(folder)
    stored = read_head(path, STAGE)
    if not isinstance(stored.head, LinearHead):
        raise ArtifactError(path, f"must hold a linear head, got {stored.head.called}", STAGE)
    _check_match(folder, train, {"test": test, "val": val, "head": stored})
    return FeatureSet(folder, train, val, test, stored.head, stored.notes, stored.network)


def _check_labels(folder: Path, train: Features, test: Features, val: Features) -> None:
    present = np.bincount(train.labels, minlength=train.num_classes) > 0
    if not present.all():
        raise ArtifactError(
            features_file(folder, "train"),
            f"must have rows of every class 0 to {train.num_classes - 1}, got none of class {np.argmin(present)}",
            STAGE,
        )
    for name, part in (("test", test), ("val", val)):
        if len(part.labels) and part.labels.max() >= train.num_classes:
            raise ArtifactError(
                features_file(folder, name),
                f"must have labels from 0 to {train.num_classes - 1}, got label {part.labels.max()}",
                STAGE,
            )


def _check_match(folder: Path, train: Features, others: dict[str, Features | HeadFile]) -> None:
    """Refuse files of another split, backbone or width than the training features."""
    first, num_features = features_file(folder, "train"), train.features.shape[1]
    for name, other in others.items():
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
            raise ArtifactError(path, f"has {width} features, but {first} has {num_features}", STAGE)
