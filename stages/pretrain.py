"""Initial weights of the backbone: ``models/pretrained.pt``, seeded ones or those of self-made pretraining."""

import time

import numpy as np
import pandas as pd
import torch
from torch import nn

from longtail.artifacts.scratch import Scratch, code_digest
from longtail.artifacts.tables import write_csv, write_json
from longtail.augment.transforms import resolve_policy, resolve_transform
from longtail.core.config import Params
from longtail.core.seeds import derive_seed
from longtail.data.manifest import Manifest, read_manifest, read_pixels
from longtail.data.samplers import FixedOrder, InstanceSampler
from longtail.methods.objectives.pretraining import PRETRAINING
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.models.resnet import count_parameters
from longtail.models.stored import save_backbone
from longtail.train.batches import open_part
from longtail.train.loop import curves, train
from longtail.train.objective import Setting
from longtail.train.runtime import describe, peak_memory, set_up
from stages.common import COST, PREPARED, PRETRAIN_CURVES, PRETRAINED, SCRATCH, params, run
from stages.settings import settings_of
from stages.split_file import prepared_digests, read_split


def main() -> None:
    start = time.perf_counter()
    p = params()
    device = set_up(p.runtime)
    manifest = read_manifest(PREPARED)
    torch.manual_seed(derive_seed(p.seed, "pretrain"))
    width = None if p.train.width == "auto" else p.train.width
    backbone = create_backbone(
        p.train.backbone, in_channels=manifest.info.channels, width=width, image_size=manifest.info.image_size
    )
    print(f"{p.train.backbone}: {count_parameters(backbone)} parameters, method {p.pretrain.method}")
    meta = {
        "name": p.train.backbone,
        "width": width,
        "channels": manifest.info.channels,
        "image_size": manifest.info.image_size,
        "pretrain": p.pretrain.method,
    }
    if p.pretrain.method == "none":
        save_backbone(PRETRAINED, backbone, meta)
        write_csv(PRETRAIN_CURVES, pd.DataFrame(columns=["epoch", "lr", "loss"]), sep="\t")
        epochs = 0
    else:
        epochs = pretrain(p, device, manifest, backbone, meta)
    seconds = round(time.perf_counter() - start, 3)
    cost = {"seconds": seconds, "epochs": epochs, "peak_memory_bytes": peak_memory(device)}
    write_json(COST / "pretrain.json", cost)


def pretrain(p: Params, device: torch.device, manifest: Manifest, backbone: nn.Module, meta: dict) -> int:
    """Train the backbone by the method and write it, without the method's own head.

    Returns the number of epochs that this process computed.
    """
    split, split_digest = read_split()
    pixels = read_pixels(PREPARED) if manifest.info.storage == "memory" else None
    kind = PRETRAINING[p.pretrain.method]
    policy = resolve_policy(manifest.info, p.pretrain.augment, "pretrain.augment", kind.augment)
    train_pixels = None if pixels is None else pixels[split.train]
    transform = resolve_transform(manifest.info, policy, p.normalize, train_pixels, p.pretrain.jitter_strength)
    labels = manifest.labels[split.train]
    seed = derive_seed(p.seed, "pretrain", p.pretrain.method)
    setting = Setting(
        num_classes=manifest.info.num_classes,
        counts=np.bincount(labels),
        num_features=backbone.num_features,  # type: ignore[arg-type]
        epochs=p.pretrain.epochs,
        seed=seed,
    )
    objective = kind.create(setting, p.pretrain)
    model = Classifier(backbone, objective.create_head())
    sampler = InstanceSampler(labels, seed=seed, epochs=p.pretrain.epochs)
    identity = {
        "params": repr((p.seed, p.normalize, p.pretrain, p.train.backbone, p.train.width)),
        "inputs": [split_digest, transform.to_meta(), *prepared_digests()],
        "code": code_digest("longtail", "stages"),
        "runtime": describe(p.runtime, device),
    }
    label = f"pretrain ({p.pretrain.method})"
    with Scratch(SCRATCH / "pretrain", identity) as scratch:
        images = open_part(manifest, PREPARED, p.data_root, split.train, transform, device, p.runtime.workers, pixels)
        outcome = train(
            model,
            objective,
            images,
            None,
            FixedOrder(sampler) if p.pretrain.fixed_order else sampler,
            settings_of(p.pretrain, p.runtime, seed, label, drop_last=p.pretrain.drop_last is not False),
            device,
            scratch.folder,
        )
        save_backbone(PRETRAINED, model.backbone, meta | {"split_digest": split_digest})
        write_csv(PRETRAIN_CURVES, curves(outcome.history), sep="\t")
        scratch.clear()
    return outcome.computed


if __name__ == "__main__":
    run(main)
