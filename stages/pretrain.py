"""Initial weights of the backbone: ``models/pretrained.pt``."""

import torch

from longtail.data.manifest import read_manifest
from longtail.models.factory import create_backbone
from longtail.models.resnet import count_parameters
from longtail.models.stored import save_backbone
from longtail.seeds import derive_seed
from stages.common import PREPARED, PRETRAINED, params, run


def main() -> None:
    p = params()
    channels = read_manifest(PREPARED).info.channels
    torch.manual_seed(derive_seed(p.seed, "pretrain"))
    width = None if p.train.width == "auto" else p.train.width
    backbone = create_backbone(p.train.backbone, in_channels=channels, width=width)
    meta = {"name": p.train.backbone, "width": width, "channels": channels, "pretrain": p.pretrain.method}
    save_backbone(PRETRAINED, backbone, meta)
    print(f"{p.train.backbone}: {count_parameters(backbone)} parameters, method {p.pretrain.method}")


if __name__ == "__main__":
    run(main)
