"""A backbone, a head layer, and both together.

Every head layer is a module (B, D) -> (B, C) whose ``export()`` gives the same head as a LinearHead.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.core.head import LinearHead


class LinearLayer(nn.Linear):
    """logits = x W^T + b, with PyTorch's initial weights, uniform in +-1/sqrt(D)."""

    def export(self) -> LinearHead:
        return _to_head(self.weight, self.bias, "linear")


class CosineLayer(nn.Module):
    """logits = scale * cos(x, w), without a bias (Cao et al. 2019)."""

    def __init__(self, num_features: int, num_classes: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        weight = torch.empty(num_classes, num_features).uniform_(-1, 1)
        self.weight = nn.Parameter(F.normalize(weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))

    def export(self) -> LinearHead:
        return _to_head(F.normalize(self.weight.detach()), None, "cosine", self.scale)


class ScaledLayer(nn.Module):
    """A fixed head with one learned factor per class (LWS): the factor multiplies the logits, bias included."""

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self._unit_input = head.unit_input
        self.weight: Tensor
        self.bias: Tensor
        weight, bias = _tensors(head)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", torch.zeros_like(weight[:, 0]) if bias is None else bias)
        self.scales = nn.Parameter(torch.ones_like(self.bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.scales * F.linear(F.normalize(x) if self._unit_input else x, self.weight, self.bias)

    def export(self) -> LinearHead:
        scales = self.scales.detach()
        kind = "unit" if self._unit_input else "linear"
        return _to_head(scales[:, None] * self.weight, scales * self.bias, kind)


def create_head(kind: str, num_features: int, num_classes: int, scale: float = 1.0) -> nn.Module:
    """A ``linear`` or ``cosine`` layer with weights drawn from torch's global generator."""
    if kind == "linear":
        return LinearLayer(num_features, num_classes)
    return CosineLayer(num_features, num_classes, scale)


def build_layer(head: LinearHead) -> nn.Module:
    """A trainable float32 layer that gives the scores of ``head``, which must not act on x / ||x|| with a bias."""
    head = head.on_raw()
    assert head.kind != "unit", "no layer of this kind"
    layer = create_head(head.kind, head.weight.shape[1], head.weight.shape[0], head.scale)
    weight, bias = (torch.from_numpy(head.weight).float(), None) if head.kind == "cosine" else _tensors(head)
    if head.kind == "linear" and bias is None:
        bias = torch.zeros(len(weight))
    layer.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return layer


def _to_head(weight: Tensor, bias: Tensor | None, kind: str, scale: float = 1.0) -> LinearHead:
    vector = None if bias is None else bias.detach().cpu().numpy().copy()
    return LinearHead(weight.detach().cpu().numpy().copy(), vector, kind, scale)


def _tensors(head: LinearHead) -> tuple[Tensor, Tensor | None]:
    """Effective weight and bias, on x or x / ||x||, as float32 copies."""
    head = head.on_raw()
    weight = torch.from_numpy(head.effective_weight()).float().clone()
    return weight, None if head.bias is None else torch.from_numpy(head.bias).float().clone()


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
