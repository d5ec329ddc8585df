"""Initial weights of the backbone, ``models/pretrained.safetensors``: seeded ones, a file's, or trained ones."""

import importlib

import pandas as pd
import torch

from longtail.artifacts.tables import write_csv
from longtail.core.params import bind
from longtail.core.seeds import derive_seed
from longtail.data.manifest import read_info
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.objectives.params import TrainParams
from longtail.methods.pretraining import METHODS, NONE, WEIGHTS
from longtail.methods.pretraining.params import PretrainParams
from longtail.models.factory import check_backbone, create_backbone
from longtail.models.resnet import count_parameters
from longtail.models.stored import save_backbone
from stages.context import Context, run
from stages.left_out import CURVE, leave_out
from stages.paths import CURVES, PREPARED, PRETRAINED


def main() -> None:
    context = Context("pretrain")
    params = context.group(PretrainParams, METHODS)
    network = bind(TrainParams, context.content.get("train", {}), OBJECTIVES.available())
    name, size = network.backbone, None if network.width == "auto" else network.width
    info = read_info(PREPARED)
    if info.without_images:
        leave_out(context, info.without_images, [PRETRAINED], {CURVES / "pretrain.tsv": CURVE})
        return
    image_size = info.image_size
    if params.method == WEIGHTS:
        image_size = importlib.import_module("stages.pretrain_weights").network_size(context, name, info)
    check_backbone(name, image_size, info.channels, size)
    _ = context.device  # set up threads and determinism before the first random number
    torch.manual_seed(derive_seed(context.seed, "pretrain"))
    backbone = create_backbone(name, in_channels=info.channels, width=size, image_size=image_size)
    print(f"{name}: {count_parameters(backbone)} parameters, method {params.method}")
    meta = {
        "name": name,
        "width": size,
        "channels": info.channels,
        "image_size": image_size,
        "pretrain": params.method,
    }
    epochs = 0
    if params.method in (NONE, WEIGHTS):
        head = None
        if params.method == WEIGHTS:
            loading = importlib.import_module("stages.pretrain_weights")
            further, head = loading.load(params, name, backbone, info, image_size)
            meta |= further
        save_backbone(PRETRAINED, backbone, meta, head)
        write_csv(CURVES / "pretrain.tsv", pd.DataFrame(columns=["epoch", "lr", "loss"]), sep="\t")
    else:
        own = context.own(METHODS, params.method, "pretrain")
        training = importlib.import_module("stages.pretrain_training")
        epochs = training.pretrain(context, params, own, backbone, meta)
    context.write_cost(epochs=epochs)


if __name__ == "__main__":
    run(main)
