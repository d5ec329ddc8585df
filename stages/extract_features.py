"""Features of all three split parts, and the stage-1 head: all that work on features needs, without torch."""

import importlib
import json
from typing import Any

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.feature_set import PARTS, features_file
from longtail.artifacts.features import Features, write_features
from longtail.artifacts.head_files import HeadFile, NetworkSize, write_head
from longtail.augment.transforms import Transform
from longtail.core.errors import ArtifactError
from longtail.core.seeds import derive_seed
from longtail.models.resnet import count_macs, count_parameters
from longtail.models.stored import load_backbone
from longtail.train.extract import FeatureExtractor
from stages.context import Context, run
from stages.data import PreparedImages
from stages.left_out import without_images
from stages.paths import BACKBONE, FEATURES, HEAD


def main() -> None:
    context = Context("extract_features")
    if without_images():
        importlib.import_module("stages.own_features").extract(context)
        return
    device = context.device
    images = PreparedImages(context)
    backbone, head, meta, backbone_digest = load_backbone(BACKBONE, "train_backbone")
    if meta["split_digest"] != images.split_digest:
        raise ArtifactError(BACKBONE, "was trained on another split", "train_backbone")
    if head is None and not meta.get("frozen"):
        raise ArtifactError(BACKBONE, "has no head", "train_backbone")
    transform = Transform.from_meta(meta["transform"])
    extractor = FeatureExtractor(backbone, meta["channels"], device, context.runtime.progress)
    found: dict[str, Features] = {}
    for part in PARTS:
        index = getattr(images.split, part)
        rows = images.open(index, transform)
        views = [
            extractor.view(rows, derive_seed(0, "views", view), f"view {view + 1} of {part}")
            for view in range(meta.get("views", 0) if part == "train" else 0)
        ]
        found[part] = Features(
            features=extractor.features(rows, f"features of {part}"),
            labels=images.manifest.labels[index],
            index=index,
            num_classes=images.info.num_classes,
            dataset=images.info.dataset,
            split_digest=images.split_digest,
            backbone_digest=backbone_digest,
            transform=json.dumps(meta["transform"], sort_keys=True),
            views=np.stack(views) if views else None,
        )
        write_features(features_file(FEATURES, part), found[part])
    notes: dict[str, Scalar] = {}
    if head is None:
        head, notes = importlib.import_module("stages.base_head").fit(found["train"], found["val"], device)
    elif not meta.get("frozen"):
        notes = {"epoch": meta["chosen_epoch"], "select": meta["select"]}
        notes |= {"selected_on": "val"} if meta["select"] == "best_val" else {}
    stage1 = HeadFile(
        method="stage1",
        head=head,
        split_digest=images.split_digest,
        backbone_digest=backbone_digest,
        network=NetworkSize(
            backbone=meta["name"],
            parameters=count_parameters(backbone) + head.size,
            macs=count_macs(backbone, meta["channels"], transform.image_size) + head.weight.size,
            **origin_of(meta),
        ),
        notes=notes,
    )
    write_head(HEAD, stage1)


def origin_of(meta: dict[str, Any]) -> dict[str, str]:
    """Where pretrained weights come from, as fields of ``NetworkSize``; empty without them."""
    weights = meta.get("weights") or {}
    names = {"weights": "source", "trained_on": "trained_on", "license": "license"}
    return {name: str(weights[key]) for name, key in names.items() if key in weights}


if __name__ == "__main__":
    run(main)
