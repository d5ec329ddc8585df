"""One optimizer step that a loss which is not finite never reaches."""

from contextlib import AbstractContextManager

import torch
from torch import Tensor


class Update:
    """Backward pass and step of a fused optimizer.

    On a GPU a loss that is not finite is noticed at the epoch's end, without a wait in between: from that loss on, the
    fused optimizer skips its steps on the device itself.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, device: torch.device, precision: str = "float32") -> None:
        self._optimizer, self._device, self._precision = optimizer, device, precision
        self._bad = torch.zeros((), device=device)
        self.note = ""

    def autocast(self) -> AbstractContextManager:
        return autocast(self._device, self._precision)

    def backward(self, loss: Tensor) -> None:
        self._optimizer.zero_grad(set_to_none=True)
        self._bad = torch.maximum(self._bad, (~torch.isfinite(loss.detach())).to(self._bad))
        loss.backward()

    def apply(self) -> None:
        self._optimizer.found_inf = self._bad  # type: ignore[attr-defined]
        self._optimizer.step()

    def failed(self) -> Tensor:
        """Whether a loss was not finite, or its gradient has made a weight so; on the device."""
        weights = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        finite = torch.stack([torch.isfinite(weight).all() for weight in weights]).all()
        return (self._bad > 0) | ~finite


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """bf16 where ``precision`` asks for it, else nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
