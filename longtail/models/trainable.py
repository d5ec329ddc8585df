"""Which weights of a backbone are trained."""

import re
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from longtail.core.errors import ConfigError

# How timm's models call their stages, unless that is a part of their head.
_STAGE = re.compile(
    r"^(?!head|final_conv|conv_head|last_conv).*\b(stages?|layers?|blocks?|features|s|denseblock|mixed)[._]?\d", re.I
)
NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)


def set_trainable(backbone: nn.Module, trainable: str) -> None:
    """Let the chosen weights of ``backbone`` require a gradient, and no others.

    Args:
        backbone: one of ``create_backbone``.
        trainable: one of these:

            - ``all``: every weight.
            - ``head``: none, since the head is no part of the backbone.
            - ``last_stage``: the last stage and what follows it.
            - ``norm``: scales and shifts of the normalization layers.
            - ``bias``: all biases, those of normalization layers included.

    Raises:
        ConfigError: the backbone has no such weights.
    """
    backbone.requires_grad_(False)
    chosen = _chosen(backbone, trainable)
    if not chosen and trainable not in ("all", "head"):
        what = {"last_stage": "known stages", "norm": "normalization layers", "bias": "biases"}[trainable]
        raise ConfigError(f"train.trainable must not be {trainable} for this backbone, which has no {what}")
    for parameter in chosen:
        parameter.requires_grad_(True)


def _chosen(backbone: nn.Module, trainable: str) -> list[nn.Parameter]:
    named = dict(backbone.named_parameters())
    if trainable == "all":
        return list(named.values())
    if trainable == "last_stage":
        return [named[name] for name in _last_stage(backbone)]
    if trainable == "norm":
        return [p for module in backbone.modules() if isinstance(module, NORMS) for p in module.parameters(False)]
    return [parameter for name, parameter in named.items() if trainable == "bias" and name.endswith("bias")]


def _last_stage(backbone: nn.Module) -> list[str]:
    """Names of the weights of the last stage and of what follows it."""
    matcher: Any = getattr(backbone, "group_matcher", None)  # of timm's models
    if matcher is None:
        stages = backbone.stages
        assert isinstance(stages, nn.Sequential)
        return [f"stages.{len(stages) - 1}.{name}" for name, _ in stages[-1].named_parameters()]
    from timm.models import group_parameters

    groups = group_parameters(backbone, matcher(coarse=True))
    chosen: list[str] = []
    for layer in sorted(groups, reverse=True):
        chosen += groups[layer]
        if any(_STAGE.search(name) for name in groups[layer]):
            return chosen if len(chosen) < len(list(backbone.parameters())) else []
    return []
