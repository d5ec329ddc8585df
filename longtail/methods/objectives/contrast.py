"""Parts of contrastive methods: a projector, a momentum encoder and a queue of keys.

All state is in parameters and buffers, so checkpoints hold it. No method waits for the device.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_FLOOR = 1e-6  # smallest length of a row, which bounds the gradient at an embedding of zeros
EMPTY = -1  # the label of a slot without a key


class Projector(nn.Module):
    """(B, D) -> (B, dim): a linear layer, ReLU and a second linear layer, both with biases.

    With ``batch_norm``, a ``BatchNorm`` follows the first layer.
    """

    def __init__(self, num_features: int, hidden: int = 2048, dim: int = 128, batch_norm: bool = False) -> None:
        super().__init__()
        self.hidden = nn.Linear(num_features, hidden)
        self.norm = BatchNorm(hidden) if batch_norm else nn.Identity()
        self.out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.norm(self.hidden(x))))


class BatchNorm(nn.BatchNorm1d):
    """Batch normalization of rows. A training batch of a single row is normalized with the running statistics."""

    def forward(self, input: Tensor) -> Tensor:
        if len(input) > 1 or not self.training:
            return super().forward(input)
        return F.batch_norm(input, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class MomentumEncoder(nn.Module):
    """A copy of a module whose weights are a moving average of the module's weights. It gets no gradient.

    Args:
        module: the module to copy.
        momentum: m in [0, 1). Each ``update`` sets theta_k <- m theta_k + (1 - m) theta_q.
    """

    def __init__(self, module: nn.Module, momentum: float) -> None:
        super().__init__()
        assert 0 <= momentum < 1, momentum
        self.module = copy.deepcopy(module).requires_grad_(False)
        self.momentum = momentum

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move every parameter toward its counterpart. The copy keeps its own buffers, the batch-norm statistics."""
        torch._foreach_lerp_(list(self.module.parameters()), list(module.parameters()), 1 - self.momentum)

    def match_mode(self, module: nn.Module) -> None:
        """Give each part the mode, train or eval, that it has in ``module``, so fixed statistics are fixed in both."""
        for own, other in zip(self.module.modules(), module.modules(), strict=True):
            own.training = other.training


class KeyQueue(nn.Module):
    """The last K keys with their labels, first in, first out.

    Attributes:
        keys: (K, dim) float32.
        labels: (K,) int64, -1 in an empty slot.
        pointer: int64 scalar, the slot of the oldest key, which is replaced next.

    Args:
        size: K >= 1. It need not be a multiple of the batch size.
        dim: size of a key.
        random: start with random unit rows from torch's global generator, labeled -1, instead of zeros.
    """

    def __init__(self, size: int, dim: int, random: bool = False) -> None:
        super().__init__()
        assert size >= 1 and dim >= 1, (size, dim)
        self.keys: Tensor
        self.labels: Tensor
        self.pointer: Tensor
        self.register_buffer("keys", unit_rows(torch.randn(size, dim)) if random else torch.zeros(size, dim))
        self.register_buffer("labels", torch.full((size,), EMPTY))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, keys: Tensor, labels: Tensor) -> None:
        """Replace the oldest keys by the rows of ``keys`` (B, dim), with their labels (B,).

        If B > K, only the last K are kept.
        """
        size = len(self.keys)
        keys, labels = keys[-size:], labels[-size:]
        slots = (self.pointer + torch.arange(len(keys), device=keys.device)) % size
        self.keys.index_copy_(0, slots, keys.to(self.keys))
        self.labels.index_copy_(0, slots, labels)
        self.pointer.add_(len(keys)).remainder_(size)


def unit_rows(x: Tensor) -> Tensor:
    """x / max(|x|, NORM_FLOOR) for each row x. float64 stays float64; all others give float32, also under autocast."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), eps=NORM_FLOOR)
