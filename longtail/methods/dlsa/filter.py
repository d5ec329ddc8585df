"""A flow filter: standardization, flow and fixed centers; log-likelihood, cluster and latent of rows."""

import numpy as np
import torch
from torch import Tensor, nn

from longtail.core.seeds import derive_seed, generator
from longtail.methods.dlsa.flow import Flow
from longtail.methods.dlsa.mixture import component_log_densities, mixture_log_density
from longtail.methods.dlsa.settings import Settings
from longtail.methods.heads.base import BLOCK_BYTES


class FlowFilter(nn.Module):
    """The density model of one level.

    Buffers: ``offset`` and ``scale`` (d,), applied first (their log-determinant counts); ``centers`` (K, d).
    """

    offset: Tensor
    scale: Tensor
    centers: Tensor

    def __init__(self, width: int, settings: Settings) -> None:
        super().__init__()
        self.flow = Flow(width, settings.blocks, settings.hidden_layers, settings.log_scale_limit or None)
        self.register_buffer("offset", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.register_buffer("centers", torch.zeros(settings.clusters, width))

    def initialize(self, seed: int, center_std: float) -> None:
        """Random weights (uniform within 1/sqrt(fan_in)) and centers, each from a stream of its own."""
        for name, parameter in self.flow.named_parameters():
            if name.endswith(("weight", "bias")):
                fan_in = parameter.shape[-1] if parameter.ndim == 2 else self.offset.shape[0]
                bound = fan_in**-0.5
                values = generator(seed, "flow", name).uniform(-bound, bound, tuple(parameter.shape))
                parameter.data.copy_(torch.from_numpy(values))
        # The name of the stream decides the draws, so it keeps its spelling.
        centers = generator(seed, "centres").normal(0.0, center_std, tuple(self.centers.shape))
        self.centers.copy_(torch.from_numpy(centers))

    def standardize(self, X: Tensor) -> None:
        """Take offset and scale from rows X (N, d); a constant feature keeps its scale."""
        std, mean = torch.std_mean(X, dim=0, correction=0)
        self.offset.copy_(mean)
        self.scale.copy_(torch.where(std > 1e-6 * mean.abs().clamp(min=1.0), std, 1.0))

    def latent(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """u (..., B, d) and log|det du/dx| (..., B) of rows (..., B, d)."""
        u, log_det = self.flow((X - self.offset) / self.scale)
        return u, log_det - self.scale.log().sum()

    def components(self, X: Tensor) -> Tensor:
        """log p(x, k), (..., B, K)."""
        return component_log_densities(*self.latent(X), self.centers)

    @torch.no_grad()
    def measure(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """log p(x) (N,) and cluster (N,) int64 of rows X (N, d), in eval mode and in blocks."""
        self.eval()
        log_density = X.new_empty(len(X))
        cluster = torch.empty(len(X), dtype=torch.int64, device=X.device)
        for rows in self._blocks(len(X)):
            components = self.components(X[rows])
            log_density[rows] = mixture_log_density(components)
            cluster[rows] = components.argmax(dim=-1)
        return log_density, cluster

    @torch.no_grad()
    def latents(self, X: Tensor) -> Tensor:
        """u (N, d) of rows X (N, d), in eval mode and in blocks."""
        self.eval()
        return torch.cat([self.latent(X[rows])[0] for rows in self._blocks(len(X))]) if len(X) else X

    def _blocks(self, rows: int) -> list[slice]:
        width = 8 * (6 * self.offset.shape[0] + 2 * self.centers.shape[0])
        step = max(1, 4 * BLOCK_BYTES // width)
        return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def create_filter(X: Tensor, settings: Settings, seed: int) -> FlowFilter:
    """A new filter on the device and in the dtype of X (N, d), the training rows of its level."""
    made = FlowFilter(X.shape[1], settings).to(X)
    made.initialize(derive_seed(seed, "filter"), settings.center_std)
    if settings.standardize:
        made.standardize(X)
    return made


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The tensor as a NumPy array."""
    return tensor.detach().cpu().numpy()
