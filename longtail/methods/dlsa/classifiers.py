"""The classifiers of DLSA: two branches whose logits are added.

Cluster-aided: A x + a + B [z; r] + b with r the cluster prior of the row; regular: without r. With ``heads: shared``
one first branch serves all routes and each route has a second branch of its own, as a correction.

Source: official code of Xu et al. 2022, in which z is x itself; the figure shows the latent.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from longtail.core.seeds import generator
from longtail.methods.dlsa.settings import Settings

COSINE_SCALE = 16.0


class LinearBranch(nn.Linear):
    """W x + b."""


class CosineBranch(nn.Linear):
    """16 ||x|| / (1 + ||x||) cos(x, w_c), without bias; 0 for a zero x."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        norm = x.norm(dim=-1, keepdim=True)
        squashed = COSINE_SCALE * functional.normalize(x, dim=-1) * (norm / (1 + norm))
        return squashed @ functional.normalize(self.weight, dim=-1).T


class RouteHead(nn.Module):
    """Logits of rows by the routes they took.

    Args:
        width, num_classes: d and C.
        routes: the 1-based routes it serves; each has a second branch.
        depth: routes above it carry no cluster prior.
        settings: ``classifier`` and ``z``.
    """

    def __init__(self, width: int, num_classes: int, routes: list[int], depth: int, settings: Settings) -> None:
        super().__init__()
        branch = {"linear": LinearBranch, "cosine": CosineBranch}[settings.classifier]
        self.routes, self.depth, self.z = list(routes), depth, settings.z
        self.first = branch(width, num_classes)
        z_width = {"none": 0, "features": width, "latent": settings.flow_width(width) if depth else width}[settings.z]
        widths = {route: z_width + num_classes * (route <= depth) for route in routes}
        self.second = nn.ModuleDict({str(route): branch(w, num_classes) for route, w in widths.items() if w})

    def initialize(self, seed: int, weight: np.ndarray | None, bias: np.ndarray | None, second: str) -> None:
        """First branch from weight (C, d) and bias (C,) where given, else random; second branches zero or random."""
        for name, parameter in self.named_parameters():
            if name.startswith("second") and second == "zero":
                parameter.data.zero_()
                continue
            module = self.get_submodule(name.rpartition(".")[0])
            bound = module.in_features**-0.5  # type: ignore[operator]
            values = generator(seed, "head", name).uniform(-bound, bound, tuple(parameter.shape))
            parameter.data.copy_(torch.from_numpy(values))
        if weight is not None:
            self.first.weight.data.copy_(torch.from_numpy(weight))
            if self.first.bias is not None:
                self.first.bias.data.copy_(torch.from_numpy(np.zeros(len(weight)) if bias is None else bias))

    def forward(self, x: Tensor, z: Tensor, r: Tensor, route: Tensor | None = None) -> Tensor:
        """(B, C) logits. x: (B, d); z: (B, d), ignored where ``z`` is none; r: (B, C) cluster priors; route: (B,)
        1-based, needed where the head serves more than one."""
        if x is z and self._adds_up:
            return self._product(x, r)
        logits = self.first(x)
        for name, branch in self.second.items():
            inputs = [*([] if self.z == "none" else [z]), *([r] if int(name) <= self.depth else [])]
            correction = branch(inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=-1))
            if len(self.routes) > 1:
                assert route is not None
                correction = torch.where((route == int(name))[:, None], correction, 0)
            logits = logits + correction
        return logits

    @property
    def _adds_up(self) -> bool:
        """Whether both branches are linear and serve the same rows, so that their weights on one input add up."""
        return self.z == "features" and len(self.routes) == 1 and isinstance(self.first, LinearBranch)

    def _product(self, x: Tensor, r: Tensor) -> Tensor:
        """The same logits with one product of x instead of two, if z is x."""
        (second,) = self.second.values()
        width = self.first.in_features
        assert isinstance(second, LinearBranch)
        logits = functional.linear(x, self.first.weight + second.weight[:, :width], self.first.bias + second.bias)
        return logits + r @ second.weight[:, width:].T if self.routes[0] <= self.depth else logits
