"""One factory for all backbones: our small-image ResNets, and any timm model."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from longtail.core.errors import ConfigError
from longtail.models.names import CIFAR_DEPTHS, RESNET10, STEM_DEPTHS, TIMM_BUILT, TIMM_PREFIX, check_name
from longtail.models.resnet import CifarResNet, StemResNet


def _cifar(depth: int) -> Callable[[int, int | None], nn.Module]:
    return lambda channels, width: CifarResNet(depth, in_channels=channels, width=width or 16)


def _stem(depths: tuple[int, ...]) -> Callable[[int, int | None], nn.Module]:
    return lambda channels, width: StemResNet(list(depths), in_channels=channels, width=width or 64)


BACKBONES: dict[str, Callable[[int, int | None], nn.Module]] = {
    **{f"resnet{depth}": _cifar(depth) for depth in CIFAR_DEPTHS},
    **{name: _stem(depths) for name, depths in STEM_DEPTHS.items()},
}


def create_backbone(
    name: str, *, in_channels: int, width: int | None = None, image_size: int | None = None
) -> nn.Module:
    """Build a backbone with weights drawn from torch's global generator.

    Args:
        name: a key of ``BACKBONES``, one of TIMM_BUILT, or a model of timm (``timm:NAME`` if both have the name, e.g.
            timm:resnet18).
        in_channels: 1 or 3.
        width: channels of the first stage; None for the usual 16 (resnet8 to 110) or 64 (resnet18, 34).
        image_size: side of the images in pixels, for timm models that are built for one size; None for timm's own.

    Returns:
        A module (B, in_channels, H, W) -> (B, D) with the attribute ``num_features`` = D.

    Raises:
        ConfigError: the name is unknown, a width is given for a timm model, or the model cannot have this image size.
    """
    if name in BACKBONES:
        return BACKBONES[name](in_channels, width)
    check_name(name, width)
    import timm
    from timm.models.resnet import BasicBlock, Bottleneck, ResNet

    model_name = name.removeprefix(TIMM_PREFIX)
    if model_name in TIMM_BUILT:
        basic, bottleneck = cast(Any, BasicBlock), cast(Any, Bottleneck)  # timm annotates a class as its instance
        model: Any = (
            ResNet(basic, (1, 1, 1, 1), num_classes=0, in_chans=in_channels)
            if model_name == RESNET10
            else ResNet(bottleneck, (3, 8, 36, 3), num_classes=0, in_chans=in_channels, cardinality=32, base_width=4)
        )
    else:
        config = timm.get_pretrained_cfg(model_name)
        size: dict[str, Any] = (
            {"img_size": image_size} if image_size and config is not None and config.fixed_input_size else {}
        )
        try:
            model = timm.create_model(model_name, pretrained=False, num_classes=0, in_chans=in_channels, **size)
        except Exception as error:  # whatever timm's many models raise for a size that they cannot have
            if not size:
                raise
            raise _unusable(name, size["img_size"], in_channels, error) from error
    model.num_features = model.head_hidden_size  # differs if timm keeps a layer between pool and classifier
    if isinstance(model, ResNet):  # Kang et al. start the last batch norm of a block at 1
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
    return model


@torch.no_grad()
def check_backbone(name: str, image_size: int, channels: int, width: int | None = None) -> None:
    """Check that a backbone can be built and takes images of this size. torch's global generator is left as it was.

    The network is built without weights. Only if that fails is it built with weights, since some models of timm read
    numbers from their tensors.

    Raises:
        ConfigError: the name is unknown, a width is given for a timm model, or the network does not take the images.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            _run_once(name, image_size, channels, width, "meta")
        except ConfigError:
            raise
        except Exception:  # noqa: BLE001 - the second try decides
            try:
                _run_once(name, image_size, channels, width, "cpu")
            except ConfigError:
                raise
            except Exception as error:
                raise _unusable(name, image_size, channels, error) from error


def _run_once(name: str, image_size: int, channels: int, width: int | None, device: str) -> None:
    with torch.device(device):
        backbone = create_backbone(name, in_channels=channels, width=width, image_size=image_size).eval()
        features = backbone(torch.zeros(1, channels, image_size, image_size))
    if features.shape != (1, backbone.num_features):
        raise ValueError(f"its output has the shape {tuple(features.shape)}")


def _unusable(name: str, image_size: int, channels: int, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200]
    return ConfigError(
        f"train.backbone must take images of image_size: {image_size} with {channels} channels, got {name} "
        f"({reason or type(error).__name__})"
    )
