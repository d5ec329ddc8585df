"""Backbones, files of weights, and refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from longtail.core.errors import ConfigError
from longtail.models.factory import create_backbone
from longtail.models.weights import load_file

State = dict[str, Tensor]
CLASSES = 5


def build(name: str = "resnet8", seed: int = 0, channels: int = 3, **options: Any) -> nn.Module:
    torch.manual_seed(seed)
    backbone = create_backbone(name, in_channels=channels, **options)
    for part in backbone.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(part.weight)
    return backbone


def state_of(name: str = "resnet8", **options: Any) -> State:
    """What the file of the tests holds: the state of a network with its own weights."""
    return dict(build(name, seed=1, **options).state_dict())


def load(
    tmp_path: Path, content: Any, name: str = "resnet8", suffix: str = ".pth", **options: Any
) -> tuple[Any, State]:
    """Save, load into a fresh backbone: what was reported, and the backbone's state."""
    path = tmp_path / f"given{suffix}"
    if suffix == ".safetensors":
        save_file({key: tensor.contiguous() for key, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    head_shape = options.pop("head_shape", None)
    backbone = build(name, **options)
    return load_file(backbone, path, head_shape), dict(backbone.state_dict())


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
