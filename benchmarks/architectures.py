"""Parameters and multiply-accumulates of the networks in published tables: ``python -m benchmarks.architectures``.

"ResNet-32" has half a million parameters in one paper and seven million in another, so the name alone is not enough.
The counts include a linear head with 100 classes for images of 32 x 32 pixels, and with 1,000 classes for 224 x 224.
They come from torch's own counter, applied to the modules that training builds. No forward pass is computed.
"""

import argparse

import torch

from benchmarks.timing import table
from longtail.models.classifier import Classifier, LinearLayer
from longtail.models.factory import create_backbone
from longtail.models.resnet import count_macs, count_parameters

# name, width, image side in pixels, where it is used
NETWORKS: tuple[tuple[str, int | None, int, str], ...] = (
    ("resnet32", None, 32, "CIFAR: LDAM-DRW, SSP, balanced softmax, PaCo, Bag of Tricks"),
    ("resnet32", 64, 32, "CIFAR: GLMC"),
    ("resnet44", None, 32, "CIFAR: Essence of long-tailed recognition"),
    ("resnet56", None, 32, "CIFAR: Essence of long-tailed recognition"),
    ("resnet110", None, 32, "CIFAR: Essence of long-tailed recognition"),
    ("resnet18", None, 32, "CIFAR-10: BNS"),
    ("resnet34", None, 32, "CIFAR: FSGL, CIFAR-100: BNS"),
    ("resnet10", None, 224, "ImageNet-LT: Decoupling"),
    ("resnet50", None, 224, "ImageNet-LT: SSP, PaCo, DLSA; iNaturalist 2018: Decoupling, PaCo, DLSA"),
    ("resnet101", None, 224, "ImageNet-LT: Decoupling"),
    ("resnet152", None, 224, "ImageNet-LT: Decoupling; Places-LT: Decoupling, PaCo, DLSA"),
    ("resnext50_32x4d", None, 224, "ImageNet-LT: Decoupling, PaCo, FSGL"),
    ("resnext101_32x4d", None, 224, "ImageNet-LT: Decoupling, PaCo"),
    ("resnext152_32x4d", None, 224, "ImageNet-LT: Decoupling"),
)


def size(name: str, width: int | None, side: int) -> tuple[int, int]:
    """Return the number of parameters, and of multiply-accumulates per image."""
    with torch.device("meta"):
        backbone = create_backbone(name, in_channels=3, width=width)
        head = LinearLayer(int(backbone.num_features), 100 if side == 32 else 1000)  # type: ignore[arg-type]
    model = Classifier(backbone, head)
    return count_parameters(model), count_macs(model, 3, side)


def main(arguments: list[str] | None = None) -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    lines = []
    for name, width, side, used in NETWORKS:
        parameters, macs = size(name, width, side)
        shown = f"`{name}`" if width is None else f"`{name}`, `width: {width}`"
        lines.append([shown, f"{side}", f"{parameters / 1e6:.2f} M", f"{macs / 1e6:,.0f} M", used])
    print(table(["`train.backbone`", "pixels", "parameters", "MACs per image", "used in"], lines))


if __name__ == "__main__":
    main()
