"""What crt and lws share: their arguments, their remarks, and the online mode on images."""

from typing import Any

from longtail.artifacts.digest import Scalar
from longtail.artifacts.scratch import Scratch, code_digest
from longtail.augment.transforms import Transform
from longtail.core.config import HeadTraining
from longtail.core.errors import ArtifactError, ConfigError
from longtail.core.head import LinearHead
from longtail.data.manifest import read_manifest, read_pixels
from longtail.methods.heads.gradient.online import train_online
from longtail.models.classifier import ScaledLayer, build_layer
from longtail.models.stored import load_backbone
from longtail.train.batches import open_part
from longtail.train.runtime import describe, set_up
from stages.common import BACKBONE, FEATURES, PREPARED, SCRATCH
from stages.repairs.base import Inputs, Repair, history_arrays
from stages.split_file import read_split


def sgd_arguments(config: HeadTraining, inputs: Inputs) -> dict[str, Any]:
    """What the estimators CRT and LWS are built with, on the device that ``runtime`` asks for."""
    shared = ("epochs", "batch_size", "lr", "momentum", "weight_decay", "samples_per_class", "select")
    runtime = inputs.params.runtime
    arguments: dict[str, Any] = {name: getattr(config, name) for name in shared}
    return arguments | {"device": str(set_up(runtime)), "progress": runtime.progress, "random_state": inputs.seed}


def selection_notes(config: HeadTraining, chosen_epoch: int) -> dict[str, Scalar]:
    """How a head was trained and which epoch it is from."""
    notes: dict[str, Scalar] = {"mode": config.mode, "epoch": chosen_epoch, "select": config.select}
    if config.select == "best_val":
        notes["selected_on"] = "val"
    return notes | ({"bn_mode": config.bn_mode} if config.mode == "online" else {})


def fit_online(method: str, inputs: Inputs, config: HeadTraining, start: LinearHead | None) -> Repair:
    """Train ``start`` (crt: as a new linear head, lws: under scales) on images through the frozen backbone."""
    if start is None or inputs.train.foreign:
        raise ConfigError(f"{method}.mode: online given, but the features are foreign; only cached is possible")
    p = inputs.params
    device = set_up(p.runtime)
    manifest = read_manifest(PREPARED)
    split, split_digest = read_split()
    backbone, _, meta, backbone_digest = load_backbone(BACKBONE, "train_backbone")
    if (split_digest, backbone_digest) != (inputs.train.split_digest, inputs.train.backbone_digest):
        raise ArtifactError(FEATURES, "holds features of another split or backbone", "extract_features")
    transform = Transform.from_meta(meta["transform"])
    pixels = read_pixels(PREPARED) if manifest.info.storage == "memory" else None
    train, val, test = (
        open_part(manifest, PREPARED, p.data_root, index, transform, device, p.runtime.workers, pixels)
        for index in (split.train, split.val, split.test)
    )
    identity = {
        "params": repr((p.seed, config)),
        "inputs": [split_digest, backbone_digest],
        "code": code_digest("longtail", "stages"),
        "runtime": describe(p.runtime, device),
    }
    with Scratch(SCRATCH / f"rebalance_{method}", identity) as scratch:
        outcome = train_online(
            method,
            backbone,
            ScaledLayer(start) if method == "lws" else build_layer(start),
            train,
            val if len(split.val) else None,
            test,
            manifest.info.num_classes,
            config,
            p.runtime,
            inputs.seed,
            device,
            scratch.folder,
        )
        scratch.clear()
    history = {name: [row[name] for row in outcome.history] for name in outcome.history[0]}
    history = {name: [v / 100 for v in column] if "accuracy" in name else column for name, column in history.items()}
    return Repair(
        outcome.head.export(),  # type: ignore[operator]
        outcome.test_scores,
        extra=history_arrays(history),
        notes=selection_notes(config, outcome.chosen_epoch),
    )
