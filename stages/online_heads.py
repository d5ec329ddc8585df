"""The ``online`` mode of cRT and LWS: train the head on augmented images through the frozen backbone."""

from typing import Any

import numpy as np
import torch

from longtail.artifacts.digest import file_digest
from longtail.augment.transforms import Transform
from longtail.core.errors import ArtifactError, ConfigError
from longtail.methods.heads.base import LinearHead
from longtail.methods.heads.crt import initial_head
from longtail.methods.heads.gradient.online import train_online
from longtail.methods.heads.gradient.params import HeadTrainingParams, history_arrays, selection_notes
from longtail.models.classifier import LinearHead as LinearModule
from longtail.models.classifier import ScaledHead
from longtail.models.stored import load_backbone
from stages.context import Context
from stages.data import PreparedImages
from stages.features import FeatureSet
from stages.paths import BACKBONE


def fit(context: Context, method: str, params: HeadTrainingParams, features: FeatureSet, seed: int) -> dict[str, Any]:
    """Train the head; the fields of ``FittedHead``."""
    start = features.head
    if start is None or features.train.foreign:
        raise ConfigError(f"{method}.mode must be cached with third-party features, got online")
    if method == "crt":
        start = initial_head(features.train.num_classes, features.train.features.shape[1], seed, np.dtype(np.float32))
    device = context.device
    images = PreparedImages(context)
    split = images.split
    backbone, _, meta, backbone_digest = load_backbone(BACKBONE, "train_backbone")
    if (images.split_digest, backbone_digest) != (features.train.split_digest, features.train.backbone_digest):
        raise ArtifactError("the features are of another split or backbone; run `dvc repro extract_features`")
    transform = Transform.from_meta(meta["transform"])
    train, val, test = (images.open(index, transform) for index in (split.train, split.val, split.test))
    with context.scratch([file_digest(BACKBONE), *images.digests()]) as scratch:
        outcome = train_online(
            method,
            backbone,
            _module(method, start),
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
    weight, bias = outcome.head.export()  # type: ignore[operator]
    history = {name: [row[name] for row in outcome.history] for name in outcome.history[0]}
    history = {name: [v / 100 for v in column] if "accuracy" in name else column for name, column in history.items()}
    return {
        "kind": str(outcome.head.kind),
        "weight": weight.cpu().numpy(),
        "bias": None if bias is None else bias.cpu().numpy(),
        "scores": outcome.test_scores,
        "arrays": history_arrays(history),
        "notes": selection_notes(params, outcome.chosen_epoch),
    }


def _module(method: str, start: LinearHead) -> torch.nn.Module:
    weight = torch.from_numpy(start.effective_weight()).float()
    bias = None if start.bias is None else torch.from_numpy(start.bias).float()
    if method == "lws":
        return ScaledHead(weight, bias, start.unit_input)
    head = LinearModule(weight.shape[1], weight.shape[0])
    head.load_state_dict({"weight": weight, "bias": bias})
    return head
