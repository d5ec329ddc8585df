"""Residual networks for small images.

``CifarResNet`` is the network of He et al. 2016, section 4.2. Its shortcut has no parameters, like that of LDAM-DRW and
its descendants: every second pixel, with channels of zeros added. ``StemResNet`` is the ImageNet ResNet-18 / 34
with a 3 x 3 stem and no max-pool.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)


class _Subsample(nn.Module):
    """The shortcut without parameters: stride 2, and channels of zeros on both sides."""

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self.before = extra_channels // 2
        self.after = extra_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(channels_in, channels_out, stride), nn.BatchNorm2d(channels_out)
        self.conv2, self.bn2 = _conv3x3(channels_out, channels_out), nn.BatchNorm2d(channels_out)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.shortcut(x), inplace=True)


class _ResNet(nn.Module):
    """Stem, stages and global average pooling: (B, channels, H, W) -> (B, num_features)."""

    num_features: int

    def __init__(self, in_channels: int, widths: list[int], depths: list[int], projection: bool) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(in_channels, widths[0]), nn.BatchNorm2d(widths[0])
        stages = []
        channels = widths[0]
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            blocks = []
            for block in range(depth):
                stride = 2 if index > 0 and block == 0 else 1
                blocks.append(BasicBlock(channels, width, stride, _shortcut(channels, width, stride, projection)))
                channels = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.num_features = channels

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return self.stages(x).mean(dim=(2, 3))


def _shortcut(channels_in: int, channels_out: int, stride: int, projection: bool) -> nn.Module:
    if stride == 1 and channels_in == channels_out:
        return nn.Identity()
    if projection:
        conv = nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(channels_out))
    return _Subsample(channels_out - channels_in)


class CifarResNet(_ResNet):
    """6n + 2 layers in three stages of ``width``, 2 ``width`` and 4 ``width`` channels; Kaiming-normal weights.

    Deviation: the linear head has PyTorch's initial weights, as in Kang et al. 2020. LDAM-DRW's is Kaiming-normal.
    """

    def __init__(self, depth: int, *, in_channels: int = 3, width: int = 16) -> None:
        assert (depth - 2) % 6 == 0, depth
        blocks = (depth - 2) // 6
        super().__init__(in_channels, [width, 2 * width, 4 * width], [blocks] * 3, projection=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)


class StemResNet(_ResNet):
    """ResNet-18 or 34 for 32 x 32 images: four stages, ``width`` to 8 ``width`` channels, PyTorch's initial weights."""

    def __init__(self, depths: list[int], *, in_channels: int = 3, width: int = 64) -> None:
        super().__init__(in_channels, [width, 2 * width, 4 * width, 8 * width], depths, projection=True)


def count_parameters(module: nn.Module) -> int:
    """Trainable and frozen parameters, without buffers."""
    return sum(parameter.numel() for parameter in module.parameters())


@torch.no_grad()
def count_macs(module: nn.Module, channels: int, image_size: int) -> int:
    """Multiply-accumulates of one image through ``module`` in eval mode, counted by torch."""
    from torch.utils.flop_counter import FlopCounterMode

    training = module.training
    module.eval()
    parameter = next(module.parameters())
    counter = FlopCounterMode(display=False)
    with counter:
        module(torch.zeros(1, channels, image_size, image_size, device=parameter.device, dtype=parameter.dtype))
    module.train(training)
    return counter.get_total_flops() // 2
