"""Optimizers by name, for the trained parameters of some modules."""

from collections.abc import Sequence

import torch
from torch import nn

from longtail.core.errors import ConfigError

OPTIMIZERS = ("sgd", "adamw")
ADAMW_BETAS = (0.9, 0.95)


def create_optimizer(
    name: str, modules: Sequence[nn.Module], *, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    """A fused optimizer. It can skip its steps on the device once a loss is not finite.

    Args:
        name: ``sgd`` (Kang et al. 2020): momentum without dampening or Nesterov, weight decay on every parameter.
            ``adamw`` (Lin & Yuan 2025): betas (0.9, 0.95), weight decay only on parameters of two or more dimensions,
            which leaves out biases and normalization.
        modules: their parameters are optimized if they require a gradient.
        lr: base learning rate.
        momentum: of ``sgd``; ``adamw`` ignores it.
        weight_decay: weight decay.

    Raises:
        ConfigError: another name.
    """
    trained = [[p for p in module.parameters() if p.requires_grad] for module in modules]
    if name == "sgd":
        groups = [{"params": parameters} for parameters in trained if parameters]
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    if name != "adamw":
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    every = [parameter for parameters in trained for parameter in parameters]
    by_decay = ([p for p in every if p.ndim > 1], weight_decay), ([p for p in every if p.ndim <= 1], 0.0)
    decayed = [{"params": parameters, "weight_decay": decay} for parameters, decay in by_decay if parameters]
    return torch.optim.AdamW(decayed, lr=lr, betas=ADAMW_BETAS, fused=True)
