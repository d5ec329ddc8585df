"""Devices by name, and arrays as tensors on a device. Importing this module does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from longtail.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


def torch_device(name: str, method: str) -> torch.device:
    """The device of that name.

    Raises:
        ConfigError: torch does not know or see the device. The message names ``method``.
    """
    import torch

    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{method}: device {name!r} is not a torch device") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{method}: device {name!r} was asked for, but torch sees no CUDA device")
    return device


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """The array as a contiguous tensor on the device; on the CPU it shares memory where the array allows."""
    import torch

    array = np.ascontiguousarray(array)
    return torch.from_numpy(array if array.flags.writeable else array.copy()).to(device)
