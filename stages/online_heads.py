"""The ``online`` mode of cRT and LWS: train the head on augmented images through the frozen backbone."""

from typing import Any

import numpy as np

from longtail.artifacts.digest import file_digest
from longtail.artifacts.feature_set import FeatureSet
from longtail.augment.transforms import Transform
from longtail.core.errors import ArtifactError
from longtail.core.head import StandardizedHead
from longtail.methods.heads.crt import initial_head
from longtail.methods.heads.gradient.online import train_online
from longtail.methods.heads.gradient.params import HeadTrainingParams, history_arrays, selection_notes
from longtail.models.classifier import ScaledLayer, build_layer
from longtail.models.stored import load_backbone
from stages.context import Context
from stages.data import PreparedImages
from stages.paths import BACKBONE


def fit(context: Context, method: str, params: HeadTrainingParams, features: FeatureSet, seed: int) -> dict[str, Any]:
    """Train the head; the fields of ``FittedHead``."""
    start = features.head
    if isinstance(start, StandardizedHead):
        start = start.with_prior("uniform", features.train_counts / features.train_counts.sum())
    if method == "crt":
        start = initial_head(features.train.num_classes, features.train.features.shape[1], seed, np.dtype(np.float32))
    device = context.device
    images = PreparedImages(context)
    split = images.split
    backbone, _, meta, backbone_digest = load_backbone(BACKBONE, "train_backbone")
    if (images.split_digest, backbone_digest) != (features.train.split_digest, features.train.backbone_digest):
        raise ArtifactError(features.folder, "holds features of another split or backbone", "extract_features")
    transform = Transform.from_meta(meta["transform"])
    train, val, test = (images.open(index, transform) for index in (split.train, split.val, split.test))
    with context.scratch([file_digest(BACKBONE), *images.digests()]) as scratch:
        outcome = train_online(
            method,
            backbone,
            ScaledLayer(start) if method == "lws" else build_layer(start),
            train,
            val if len(split.val) else None,
            test,
            images.info.num_classes,
            params,
            context.runtime,
            seed,
            device,
            scratch.folder,
        )
        scratch.clear()
    history = {name: [row[name] for row in outcome.history] for name in outcome.history[0]}
    return {
        "head": outcome.head.export(),  # type: ignore[operator]
        "scores": outcome.test_scores,
        "arrays": history_arrays(history),
        "notes": selection_notes(params, outcome.chosen_epoch),
    }
