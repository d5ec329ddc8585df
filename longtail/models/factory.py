"""One registry and one factory for backbones: small-image ResNets by name, and any timm model."""

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from longtail.core.errors import ConfigError
from longtail.models.resnet import CifarResNet, StemResNet

TIMM_PREFIX = "timm:"


def _cifar(depth: int) -> Callable[[int, int | None], nn.Module]:
    return lambda channels, width: CifarResNet(depth, in_channels=channels, width=width or 16)


def _stem(depths: list[int]) -> Callable[[int, int | None], nn.Module]:
    return lambda channels, width: StemResNet(depths, in_channels=channels, width=width or 64)


BACKBONES: dict[str, Callable[[int, int | None], nn.Module]] = {
    **{f"resnet{depth}": _cifar(depth) for depth in (8, 20, 32, 44, 56, 110)},
    "resnet18": _stem([2, 2, 2, 2]),
    "resnet34": _stem([3, 4, 6, 3]),
}
# Of Kang et al. 2020 and built of timm's parts, which has no model of this name.
RESNEXT152 = "resnext152_32x4d"


def create_backbone(name: str, *, in_channels: int, width: int | None = None) -> nn.Module:
    """Build a backbone with weights drawn from torch's global generator.

    Args:
        name: a key of ``BACKBONES``, RESNEXT152, or a model of timm (``timm:NAME`` where both have the name, e.g.
            timm:resnet18).
        in_channels: 1 or 3.
        width: channels of the first stage; None for the usual 16 (resnet8 to 110) or 64 (resnet18, 34).

    Returns:
        A module (B, in_channels, H, W) -> (B, D) with the attribute ``num_features`` = D.

    Raises:
        ConfigError: unknown name, or a width for a timm model.
    """
    if name in BACKBONES:
        return BACKBONES[name](in_channels, width)
    import timm
    from timm.models.resnet import Bottleneck, ResNet

    model_name = name.removeprefix(TIMM_PREFIX)
    if model_name != RESNEXT152 and not timm.is_model(model_name):
        known = ", ".join(BACKBONES)
        raise ConfigError(f"train.backbone: {name!r} is unknown; use one of {known}, or the name of a timm model")
    if width is not None:
        raise ConfigError(f"train.width: {width} given, but {name} is a timm model of fixed width; use auto")
    if model_name == RESNEXT152:
        layers, block = (3, 8, 36, 3), cast(Any, Bottleneck)  # timm annotates the class as one of its instances
        model: Any = ResNet(block, layers, num_classes=0, in_chans=in_channels, cardinality=32, base_width=4)
    else:
        model = timm.create_model(model_name, pretrained=False, num_classes=0, in_chans=in_channels)
    model.num_features = model.head_hidden_size  # differs where timm keeps a layer between pool and classifier
    if isinstance(model, ResNet):  # Kang et al. start the last BN of a block at 1
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
    return model
