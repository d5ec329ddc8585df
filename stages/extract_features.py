"""Features of all three split parts, and the stage-1 head: all that work on features needs, without torch."""

import json

from longtail.artifacts.features import Features, write_features
from longtail.artifacts.head_files import HeadFile, NetworkSize, write_head
from longtail.augment.transforms import Transform
from longtail.core.errors import ArtifactError
from longtail.data.manifest import read_manifest, read_pixels
from longtail.models.resnet import count_macs, count_parameters
from longtail.models.stored import load_backbone
from longtail.train.batches import open_part
from longtail.train.extract import outputs
from longtail.train.runtime import set_up
from stages.common import BACKBONE, HEAD, PREPARED, features_file, params, run
from stages.split_file import read_split


def main() -> None:
    p = params()
    device = set_up(p.runtime)
    manifest = read_manifest(PREPARED)
    split, split_digest = read_split()
    backbone, head, meta, backbone_digest = load_backbone(BACKBONE, "train_backbone")
    if meta["split_digest"] != split_digest:
        raise ArtifactError(BACKBONE, "was trained on another split", "train_backbone")
    if head is None:
        raise ArtifactError(BACKBONE, "has no head", "train_backbone")
    transform = Transform.from_meta(meta["transform"])
    pixels = read_pixels(PREPARED) if manifest.info.storage == "memory" else None
    backbone.to(device)
    for part in ("train", "val", "test"):
        index = getattr(split, part)
        images = open_part(manifest, PREPARED, p.data_root, index, transform, device, p.runtime.workers, pixels)
        content = Features(
            features=outputs(backbone, images, backbone.num_features, f"features of {part}", p.runtime.progress),  # type: ignore[arg-type]
            labels=manifest.labels[index],
            index=index,
            num_classes=manifest.info.num_classes,
            dataset=manifest.info.dataset,
            split_digest=split_digest,
            backbone_digest=backbone_digest,
            transform=json.dumps(meta["transform"], sort_keys=True),
        )
        write_features(features_file(part), content)
    stage1 = HeadFile(
        method="stage1",
        head=head,
        split_digest=split_digest,
        backbone_digest=backbone_digest,
        network=NetworkSize(
            backbone=meta["name"],
            parameters=count_parameters(backbone) + head.size,
            macs=count_macs(backbone, meta["channels"], transform.image_size) + head.weight.size,
        ),
        notes={"epoch": meta["chosen_epoch"], "select": meta["select"]}
        | ({"selected_on": "val"} if meta["select"] == "best_val" else {}),
    )
    write_head(HEAD, stage1)


if __name__ == "__main__":
    run(main)
