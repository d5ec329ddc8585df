"""Features of all three split parts, and the stage-1 head: all that work on features needs, without torch."""

import importlib
import json
from typing import Any

from longtail.artifacts.feature_set import features_file
from longtail.artifacts.features import Features, write_features
from longtail.artifacts.head_files import HeadFile, NetworkSize, write_head
from longtail.augment.transforms import Transform
from longtail.core.errors import ArtifactError
from longtail.models.resnet import count_macs, count_parameters
from longtail.models.stored import load_backbone
from longtail.train.extract import outputs
from stages.context import Context, run
from stages.data import PreparedImages
from stages.left_out import without_images
from stages.paths import BACKBONE, FEATURES, HEAD


def main() -> None:
    context = Context("extract_features")
    if without_images():
        importlib.import_module("stages.own_features").extract()
        return
    device = context.device
    images = PreparedImages(context)
    backbone, head, meta, backbone_digest = load_backbone(BACKBONE, "train_backbone")
    if meta["split_digest"] != images.split_digest:
        raise ArtifactError(BACKBONE, "was trained on another split", "train_backbone")
    if head is None:
        raise ArtifactError(BACKBONE, "has no head", "train_backbone")
    transform = Transform.from_meta(meta["transform"])
    backbone.to(device)
    for part in ("train", "val", "test"):
        index = getattr(images.split, part)
        rows = images.open(index, transform)
        content = Features(
            features=outputs(backbone, rows, backbone.num_features, f"features of {part}", context.runtime.progress),  # type: ignore[arg-type]
            labels=images.manifest.labels[index],
            index=index,
            num_classes=images.info.num_classes,
            dataset=images.info.dataset,
            split_digest=images.split_digest,
            backbone_digest=backbone_digest,
            transform=json.dumps(meta["transform"], sort_keys=True),
        )
        write_features(features_file(FEATURES, part), content)
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
        notes={"epoch": meta["chosen_epoch"], "select": meta["select"]}
        | ({"selected_on": "val"} if meta["select"] == "best_val" else {}),
    )
    write_head(HEAD, stage1)


def origin_of(meta: dict[str, Any]) -> dict[str, str]:
    """Where pretrained weights come from, as fields of ``NetworkSize``; empty without them."""
    weights = meta.get("weights") or {}
    names = {"weights": "source", "trained_on": "trained_on", "license": "license"}
    return {name: str(weights[key]) for name, key in names.items() if key in weights}


if __name__ == "__main__":
    run(main)
