"""Train the backbone and its head: ``models/backbone.pt`` and the training curves."""

import time

import numpy as np
import torch

from longtail.artifacts.scratch import Scratch, code_digest
from longtail.artifacts.tables import write_csv, write_json
from longtail.augment.transforms import resolve_policy, resolve_transform
from longtail.core.config import Params, Train
from longtail.core.errors import ArtifactError, ConfigError
from longtail.core.seeds import derive_seed, generator
from longtail.data.manifest import DatasetInfo, read_manifest, read_pixels
from longtail.data.samplers import EffectiveNumberSampler, Sampler, create_sampler
from longtail.methods.ipdpp.controls import uniform
from longtail.methods.objectives.registry import OBJECTIVES
from longtail.models.classifier import Classifier
from longtail.models.resnet import count_macs, count_parameters
from longtail.models.stored import describe_backbone, load_backbone, save_backbone
from longtail.train.batches import open_part
from longtail.train.loop import Settings, curves, train
from longtail.train.objective import Objective, Setting
from longtail.train.runtime import describe, peak_memory, set_up
from stages.common import BACKBONE, COST, CURVES, PREPARED, PRETRAINED, SCRATCH, params, run
from stages.settings import settings_of
from stages.split_file import prepared_digests, read_split


def main() -> None:
    start = time.perf_counter()
    p = params()
    device = set_up(p.runtime)
    manifest = read_manifest(PREPARED)
    split, split_digest = read_split()
    if p.train.select == "best_val" and len(split.val) == 0:
        raise ConfigError("train.select: best_val given, but the split has no val images; set val_per_class above 0")
    pixels = read_pixels(PREPARED) if manifest.info.storage == "memory" else None
    train_pixels = None if pixels is None else pixels[split.train]
    augment = "none" if p.train.frozen and p.train.augment == "auto" else p.train.augment
    policy = resolve_policy(manifest.info, augment, "train.augment")
    kind = OBJECTIVES[p.train.objective]
    second = second_policy(manifest.info, p.train, kind)
    transform = resolve_transform(manifest.info, policy, p.normalize, train_pixels, p.train.jitter_strength, second)

    def images(index):  # type: ignore[no-untyped-def]
        return open_part(manifest, PREPARED, p.data_root, index, transform, device, p.runtime.workers, pixels)

    backbone, _, origin, pretrained_digest = load_backbone(PRETRAINED, "pretrain")
    if (origin["name"], origin["width"] or "auto") != (p.train.backbone, p.train.width):
        wanted = f"train.backbone: {p.train.backbone} and train.width: {p.train.width}"
        raise ArtifactError(PRETRAINED, f"holds {describe_backbone(origin)}, which is not {wanted}", "pretrain")
    if origin["channels"] != manifest.info.channels or origin.get("split_digest", split_digest) != split_digest:
        raise ArtifactError(PRETRAINED, "belongs to other images or another split", "pretrain")
    seed = derive_seed(p.seed, "train_backbone")
    index = subset(split.train, manifest.labels, p.train, seed)
    labels = manifest.labels[index]
    torch.manual_seed(derive_seed(seed, "initialise"))
    setting = Setting(
        num_classes=len(manifest.class_names),
        counts=np.bincount(labels),
        num_features=backbone.num_features,  # type: ignore[arg-type]
        epochs=p.train.epochs,
        seed=seed,
        head=("cosine" if p.train.objective == "ldam" else "linear") if p.train.head == "auto" else p.train.head,
        scale=p.train.scale,
    )
    objective = kind.create(setting, p.train)
    model = Classifier(backbone, objective.create_head())
    sampler = _sampler(p.train, labels, seed)
    identity = {
        "params": repr((p.seed, p.normalize, p.train)),
        "inputs": [split_digest, pretrained_digest, transform.to_meta(), *prepared_digests()],
        "code": code_digest("longtail", "stages"),
        "runtime": describe(p.runtime, device),
    }
    size = {
        "parameters": count_parameters(model),
        "macs": count_macs(model, manifest.info.channels, manifest.info.image_size),
    }
    with Scratch(SCRATCH / "train_backbone", identity) as scratch:
        val = images(split.val) if len(split.val) else None
        settings = _settings(p, seed)
        outcome = train(model, objective, images(index), val, sampler, settings, device, scratch.folder)
        meta = {
            "name": origin["name"],
            "width": origin["width"],
            "channels": origin["channels"],
            "image_size": origin["image_size"],
            "transform": transform.to_meta(),
            "split_digest": split_digest,
            "chosen_epoch": outcome.chosen_epoch,
            "select": p.train.select,
        }
        save_backbone(BACKBONE, model.backbone, meta, model.head.export())  # type: ignore[operator]
        write_csv(CURVES, curves(outcome.history), sep="\t")
        scratch.clear()
    cost = {
        "seconds": round(time.perf_counter() - start, 3),
        "epochs": outcome.computed,
        "peak_memory_bytes": peak_memory(device),
    }
    write_json(COST / "train_backbone.json", size | cost)


def subset(train_index: np.ndarray, labels: np.ndarray, config: Train, seed: int) -> np.ndarray:
    """The rows of the dataset that are trained on: all, or up to ``per_class`` of each class, drawn uniformly.

    ``auto`` is ten times the smallest class for a frozen backbone, all otherwise.
    """
    counts = np.bincount(labels[train_index])
    size = (10 * int(counts.min()) if config.frozen else "all") if config.per_class == "auto" else config.per_class
    if size == "all":
        return train_index
    members = np.split(train_index[np.argsort(labels[train_index], kind="stable")], np.cumsum(counts)[:-1])
    streams = (generator(seed, "per_class", c) for c in range(len(members)))
    drawn = [
        rows[uniform(len(rows), min(size, len(rows)), stream)] for rows, stream in zip(members, streams, strict=True)
    ]
    chosen = np.concatenate(drawn)
    print(f"train.per_class: {size} images of each class at most, {len(chosen)} of {len(train_index)} images")
    return chosen


def _sampler(config: Train, labels: np.ndarray, seed: int) -> Sampler:
    if config.rule == "resample":
        return EffectiveNumberSampler(labels, seed=seed, beta=config.beta)
    return create_sampler(
        config.sampler, labels, seed=seed, epochs=config.epochs, samples_per_class=config.samples_per_class
    )


def second_policy(info: DatasetInfo, config: Train, kind: type[Objective]) -> str | None:
    """The policy of the second view; None where it is that of the first, or there is none."""
    if kind.views == 1 or (config.second_augment == "auto" and (config.frozen or not kind.second_augment)):
        return None
    return resolve_policy(info, config.second_augment, "train.second_augment", kind.second_augment or "plain")


def _settings(p: Params, seed: int) -> Settings:
    t = p.train
    frozen_bn = t.frozen if t.bn_mode == "auto" else t.bn_mode == "eval"
    return settings_of(
        t,
        p.runtime,
        seed,
        "train_backbone",
        drop_last=not t.frozen if t.drop_last == "auto" else t.drop_last,
        frozen=t.frozen,
        bn_mode="eval" if frozen_bn else "train",
        select=t.select,
    )


if __name__ == "__main__":
    run(main)
