"""The features and the head of a dataset that is features: its own rows, and the given head or one fitted on them."""

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.feature_set import PARTS, features_file
from longtail.artifacts.features import Features, write_features
from longtail.artifacts.head_files import HeadFile, write_head
from longtail.core.head import LinearHead
from longtail.data.manifest import read_manifest
from longtail.data.prepared_features import read_given_head, read_rows
from longtail.methods.heads.base import fit_linear_head
from stages.data import read_split
from stages.paths import FEATURES, HEAD, PREPARED


def fit_base_head(X: np.ndarray, y: np.ndarray, num_classes: int) -> LinearHead:
    """The head that the methods start from where none is given. X: (N, D) float32; y: (N,) int64, every class."""
    return fit_linear_head(X, y, num_classes)


def extract() -> None:
    """Write the feature files and ``features/head.h5``. The digest of the prepared rows is that of the backbone."""
    manifest = read_manifest(PREPARED)
    split, split_digest = read_split()
    rows, digest = read_rows(PREPARED, manifest.labels)
    for part in PARTS:
        index = getattr(split, part)
        content = Features(
            features=rows[index],
            labels=manifest.labels[index],
            index=index,
            num_classes=manifest.info.num_classes,
            dataset=manifest.info.dataset,
            split_digest=split_digest,
            backbone_digest=digest,
            transform="",
        )
        write_features(features_file(FEATURES, part), content)
    head = read_given_head(PREPARED)
    notes: dict[str, Scalar] = {"head": "fitted on the features" if head is None else "given file"}
    if head is None:
        print(f"fitting a head on {len(split.train)} rows of {rows.shape[1]} features")
        head = fit_base_head(rows[split.train], manifest.labels[split.train], manifest.info.num_classes)
    write_head(HEAD, HeadFile("stage1", head, split_digest=split_digest, backbone_digest=digest, notes=notes))
