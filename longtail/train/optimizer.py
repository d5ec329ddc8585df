"""Optimizers by name, for the trained parameters of some modules."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from longtail.core.errors import ConfigError

OPTIMIZERS = ("sgd", "adamw")
ADAMW_BETAS = (0.9, 0.95)


def create_optimizer(
    name: str,
    modules: Sequence[nn.Module],
    *,
    lr: float,
    momentum: float,
    weight_decay: float,
    slower: tuple[nn.Module, float] | None = None,
    constant: Sequence[nn.Module] = (),
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
        slower: one of ``modules``, and the factor of the rate that the groups of its parameters keep as ``lr_factor``.
        constant: the groups of their parameters have ``constant_lr``, so that schedules leave them alone.

    Raises:
        ConfigError: another name.
    """
    if name not in OPTIMIZERS:
        raise ConfigError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    trained = [[p for p in module.parameters() if p.requires_grad] for module in modules]
    if name == "sgd":
        groups: list[dict[str, Any]] = [{"params": parameters} for parameters in trained if parameters]
    else:
        every = [parameter for parameters in trained for parameter in parameters]
        by_decay = ([p for p in every if p.ndim > 1], weight_decay), ([p for p in every if p.ndim <= 1], 0.0)
        groups = [{"params": parameters, "weight_decay": decay} for parameters, decay in by_decay if parameters]
    if slower is not None:
        groups = _split(groups, slower[:1], lr_factor=slower[1])
    if constant:
        groups = _split(groups, constant, constant_lr=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)
    return torch.optim.AdamW(groups, lr=lr, betas=ADAMW_BETAS, fused=True)


def _split(groups: list[dict[str, Any]], modules: Sequence[nn.Module], **options: Any) -> list[dict[str, Any]]:
    """The groups, each split in the parameters of ``modules``, with the options, and the others."""
    chosen = {id(parameter) for module in modules for parameter in module.parameters()}
    split: list[dict[str, Any]] = []
    for group in groups:
        parts = [p for p in group["params"] if id(p) in chosen], [p for p in group["params"] if id(p) not in chosen]
        if parts[0]:
            split.append(group | {"params": parts[0]} | options)
        if parts[1]:
            split.append(group | {"params": parts[1]})
    return split
