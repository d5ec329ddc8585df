"""Train the backbone and its head: ``models/backbone.safetensors`` and the training curves."""

from typing import Any

import numpy as np
import torch
from torch import nn

from longtail.artifacts.tables import write_csv
from longtail.augment.params import NormalizeParams
from longtail.augment.transforms import InputConfig, Transform, resolve_policy, resolve_transform
from longtail.core.errors import ArtifactError, ConfigError
from longtail.core.head import LinearHead
from longtail.core.seeds import derive_seed, generator
from longtail.data.samplers import EffectiveNumberSampler, Sampler, create_sampler
from longtail.methods.ipdpp.controls import uniform
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.objectives.params import TrainParams, create_objective
from longtail.models.classifier import Classifier, build_layer
from longtail.models.resnet import count_macs, count_parameters
from longtail.models.stored import load_backbone, save_backbone
from longtail.train.network import train_network, training_curves
from longtail.train.objective import TaskInfo
from stages.context import Context, run
from stages.data import PreparedImages
from stages.left_out import CURVE, leave_out, without_images
from stages.paths import BACKBONE, CURVES, PRETRAINED
from stages.training import require_val, training_settings


def main() -> None:
    context = Context("train_backbone")
    params = context.group(TrainParams, OBJECTIVES)
    own = context.own(OBJECTIVES, params.objective, "train")
    if reason := without_images():
        leave_out(context, reason, [BACKBONE], {CURVES / "train_backbone.tsv": CURVE})
        return
    device = context.device
    images = PreparedImages(context)
    info, split = images.info, images.split
    require_val(params, split.val)
    backbone, given, origin, pretrained_digest = load_backbone(PRETRAINED, "pretrain")
    transform = choose_transform(context, params, images, origin)
    if (origin["name"], origin["width"] or "auto") != (params.backbone, params.width):
        held = f"{origin['name']} of width {origin['width'] or 'auto'}"
        raise ArtifactError(PRETRAINED, f"must hold {params.backbone} of width {params.width}, got {held}", "pretrain")
    if origin["channels"] != info.channels or origin.get("split_digest", images.split_digest) != images.split_digest:
        raise ArtifactError(PRETRAINED, "belongs to other images or another split", "pretrain")
    if params.frozen:
        keep_frozen(
            backbone, given, describe(origin, transform, images) | {"pretrain": origin["pretrain"]}, params.views
        )
        context.write_cost(parameters=count_parameters(backbone))
        return
    seed = derive_seed(context.seed, "train_backbone")
    index = draw_subset(split.train, images.manifest.labels, params, seed)
    labels = images.manifest.labels[index]
    torch.manual_seed(derive_seed(seed, "initialise"))
    task = TaskInfo(
        num_classes=info.num_classes,
        counts=np.bincount(labels),
        num_features=backbone.num_features,  # type: ignore[arg-type]
        epochs=params.epochs,
        seed=seed,
        head=params.head_kind,
        scale=params.scale,
    )
    objective = create_objective(task, params, own)
    head = objective.create_head()
    model = Classifier(backbone, head if given is None else start_from(given, head, params))
    size = {"parameters": count_parameters(model), "macs": count_macs(model, info.channels, transform.image_size)}
    fixed_statistics = params.trainable != "all" if params.bn_mode == "auto" else params.bn_mode == "eval"
    settings = training_settings(
        params,
        context.runtime,
        seed,
        "train_backbone",
        drop_last=not params.trains_head_only if params.drop_last == "auto" else params.drop_last,
        trainable=params.trainable,
        backbone_lr_factor=params.backbone_lr_factor,
        bn_mode="eval" if fixed_statistics else "train",
        select=params.select,
    )
    with context.scratch([pretrained_digest, transform.to_meta(), *images.digests()]) as scratch:
        outcome = train_network(
            model,
            objective,
            images.open(index, transform),
            images.open(split.val, transform) if len(split.val) else None,
            create_image_sampler(params, labels, seed),
            settings,
            device,
            scratch.folder,
        )
        chosen = {"chosen_epoch": outcome.chosen_epoch, "select": params.select}
        meta = describe(origin, transform, images) | chosen
        save_backbone(BACKBONE, model.backbone, meta, model.head.export())  # type: ignore[operator]
        write_csv(CURVES / "train_backbone.tsv", training_curves(outcome.history), sep="\t")
        scratch.clear()
    context.write_cost(epochs=outcome.computed, **size)


def describe(origin: dict[str, Any], transform: Transform, images: PreparedImages) -> dict[str, Any]:
    """What is stored with the backbone: how it is built, what it sees, and where its weights come from."""
    kept = ("name", "width", "channels", "image_size", "input", "weights")
    known = {name: origin[name] for name in kept if name in origin}
    return known | {"transform": transform.to_meta(), "split_digest": images.split_digest}


def keep_frozen(backbone: nn.Module, given: LinearHead | None, meta: dict[str, Any], views: int) -> None:
    """Write the backbone as it is, with the head of its weights if there is one, and curves without rows."""
    head = f"the head of {meta['weights']['source']} is kept" if given else "extract_features fits the head"
    print(f"train_backbone: frozen, nothing is trained; {head}")
    if meta.get("pretrain") == "none":
        print("train_backbone: the weights are random (pretrain.method: none), so the features say little")
    frozen = {"chosen_epoch": 0, "select": "last", "frozen": True, "views": views}
    save_backbone(BACKBONE, backbone, meta | frozen, given)
    write_csv(CURVES / "train_backbone.tsv", training_curves([]), sep="\t")


def choose_transform(
    context: Context, params: TrainParams, images: PreparedImages, origin: dict[str, Any]
) -> Transform:
    """Augmentation, size and normalization of the training images. ``origin`` is the metadata of the pretrained."""
    info, entry = images.info, params.entry
    augment = "none" if params.trains_head_only and params.augment == "auto" else params.augment
    policy = resolve_policy(info, augment, "train.augment")
    second = None  # the policy of the first view
    automatic = params.second_augment == "auto"
    if entry.views > 1 and not (automatic and (params.trains_head_only or not entry.second_augment)):
        second = resolve_policy(info, params.second_augment, "train.second_augment", entry.second_augment or "plain")
    chosen = context.top_level(NormalizeParams)
    return resolve_transform(
        info,
        policy,
        chosen.normalize,
        images.train_pixels,
        params.jitter_strength,
        second,
        crop=chosen.crop,
        image_size=origin["image_size"],
        source=InputConfig.from_meta(origin["input"]) if origin.get("input") else None,
    )


def start_from(given: LinearHead, head: nn.Module, params: TrainParams) -> nn.Module:
    """The head of the weights (``pretrain.head: file``) in the place of the objective's initial head.

    Raises:
        ConfigError: the objective, which would train it, has a head of another kind.
    """
    layer = build_layer(given)
    if type(layer) is not type(head):
        raise ConfigError(
            f"pretrain.head must be none with train.objective: {params.objective} and train.head: {params.head}, whose "
            f"head is another than the {given.kind} one of the weights, got file"
        )
    return layer


def draw_subset(train_index: np.ndarray, labels: np.ndarray, params: TrainParams, seed: int) -> np.ndarray:
    """The rows of the dataset to train on: all, or up to ``per_class`` of each class, drawn uniformly.

    ``auto`` is ten times the smallest class if only the head is trained, all otherwise.
    """
    counts = np.bincount(labels[train_index])
    size = (
        (10 * int(counts.min()) if params.trains_head_only else "all")
        if params.per_class == "auto"
        else params.per_class
    )
    if size == "all":
        return train_index
    members = np.split(train_index[np.argsort(labels[train_index], kind="stable")], np.cumsum(counts)[:-1])
    streams = (generator(seed, "per_class", c) for c in range(len(members)))
    drawn = [
        rows[uniform(len(rows), min(size, len(rows)), stream)] for rows, stream in zip(members, streams, strict=True)
    ]
    chosen = np.concatenate(drawn)
    print(f"train.per_class: at most {size} images per class, {len(chosen)} of {len(train_index)} images")
    return chosen


def create_image_sampler(params: TrainParams, labels: np.ndarray, seed: int) -> Sampler:
    """The order of the training images."""
    if params.rule == "resample":
        return EffectiveNumberSampler(labels, seed=seed, beta=params.beta)
    return create_sampler(
        params.sampler, labels, seed=seed, epochs=params.epochs, samples_per_class=params.samples_per_class
    )


if __name__ == "__main__":
    run(main)
