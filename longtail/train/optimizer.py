"""The optimizers that ``optimizer`` names, over the trained parameters of some modules."""

from collections.abc import Sequence

import torch
from torch import nn

from longtail.core.errors import ConfigError

OPTIMIZERS = ("sgd", "adamw")
ADAMW_BETAS = (0.9, 0.95)


def create_optimizer(
    name: str, modules: Sequence[nn.Module], *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A fused optimizer, so that a loss which is not finite can make it skip its step on the device.

    "sgd": Kang et al. 2020; momentum without dampening or Nesterov, weight decay on every parameter. "adamw": Lin &
    Yuan 2025; betas (0.9, 0.95), weight decay on parameters of two and more dimensions alone (none on biases and
    normalisation), ``momentum`` unused. Raises ConfigError for another name.
    """
    trained = [[p for p in module.parameters() if p.requires_grad] for module in modules]
    if name == "sgd":
        groups = [{"params": parameters} for parameters in trained if parameters]
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if name != "adamw":
        raise ConfigError(f"unknown optimizer {name!r}; allowed: {', '.join(OPTIMIZERS)}")
    every = [parameter for parameters in trained for parameter in parameters]
    by_decay = ([p for p in every if p.ndim > 1], weight_decay), ([p for p in every if p.ndim <= 1], 0.0)
    decayed = [{"params": parameters, "weight_decay": decay} for parameters, decay in by_decay if parameters]
    return torch.optim.AdamW(decayed, lr=lr, betas=ADAMW_BETAS, fused=True)
