"""A backbone and a head.

Every head is a module (B, D) -> (B, C) with ``kind``, ``scale`` and ``export()``: weight (C, D) and bias (C,) or None,
from which ``kind`` and ``scale`` say how logits follow.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearHead(nn.Linear):
    """logits = x W^T + b, with PyTorch's initial weights, uniform in +-1/sqrt(D)."""

    kind, scale = "linear", 1.0

    def export(self) -> tuple[Tensor, Tensor | None]:
        return self.weight.detach(), None if self.bias is None else self.bias.detach()


class CosineHead(nn.Module):
    """logits = scale * cos(x, w); no bias (Cao et al. 2019)."""

    kind = "cosine"

    def __init__(self, num_features: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        weight = torch.empty(num_classes, num_features).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))

    def export(self) -> tuple[Tensor, Tensor | None]:
        return F.normalize(self.weight.detach()), None


class ScaledHead(nn.Module):
    """LWS: a fixed head whose logits, bias included, are scaled by one learned factor a class.

    Args:
        weight: (C, D); with ``unit_input`` it acts on x/|x|.
        bias: (C,) or None.
    """

    scale = 1.0

    def __init__(self, weight: Tensor, bias: Tensor | None, unit_input: bool = False) -> None:
        super().__init__()
        self.kind = "unit" if unit_input else "linear"
        self.weight: Tensor
        self.bias: Tensor
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", torch.zeros_like(weight[:, 0]) if bias is None else bias.clone())
        self.scales = nn.Parameter(torch.ones_like(self.bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.scales * F.linear(F.normalize(x) if self.kind == "unit" else x, self.weight, self.bias)

    def export(self) -> tuple[Tensor, Tensor | None]:
        scales = self.scales.detach()
        return scales[:, None] * self.weight, scales * self.bias


def create_head(kind: str, num_features: int, num_classes: int, scale: float = 1.0) -> nn.Module:
    """A ``linear`` or ``cosine`` head with weights drawn from torch's global generator."""
    if kind == "linear":
        return LinearHead(num_features, num_classes)
    return CosineHead(num_features, num_classes, scale)


class Classifier(nn.Module):
    """(B, channels, H, W) -> (B, C) logits; ``forward_features`` gives the pooled (B, D)."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward_features(self, x: Tensor) -> Tensor:
        return self.backbone(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))
