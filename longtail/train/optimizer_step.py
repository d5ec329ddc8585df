"""An optimizer step that is skipped once a loss is not finite."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


class OptimizerStep:
    """Backward pass and step of a fused optimizer.

    On a GPU a loss that is not finite is noticed at the end of the epoch, without a wait in between. From that loss on,
    the fused optimizer skips its steps on the device itself.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, precision: str = "float32") -> None:
        self._optimizer, self._device, self._precision = optimizer, device, precision
        self._bad = torch.zeros((), device=device)

    def autocast(self) -> AbstractContextManager:
        """The precision of forward passes."""
        return autocast(self._device, self._precision)

    def backward(self, loss: Tensor) -> None:
        """Clear the gradients and compute those of ``loss``."""
        self._optimizer.zero_grad(set_to_none=True)
        self._bad = torch.maximum(self._bad, (~torch.isfinite(loss.detach())).to(self._bad))
        loss.backward()

    def apply(self) -> None:
        """Take a step with the current gradients, unless a loss was not finite."""
        self._optimizer.found_inf = self._bad  # type: ignore[attr-defined]
        self._optimizer.step()

    def has_failed(self) -> Tensor:
        """A scalar on the device: whether a loss was not finite, or its gradient has made a weight so."""
        weights = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        finite = torch.stack([torch.isfinite(weight).all() for weight in weights]).all()
        return (self._bad > 0) | ~finite


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 autocast if ``precision`` asks for it, otherwise nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
