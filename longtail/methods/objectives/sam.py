"""Sharpness-aware minimization (SAM): the gradient of a step is taken at the worst point nearby.

Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021, as the
released FSGL code uses it. The Euclidean norm is over all parameters together, including biases and those of batch
normalization.

Deviation: the released optimizer saves only the parameters that have a gradient in the first pass, and fails on the
others in the second. Here a parameter without a gradient stays in place during the ascent.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

FLOOR = 1e-12


@contextmanager
def ascended(parameters: Iterable[nn.Parameter], rho: float) -> Iterator[Tensor]:
    """Inside, the weights are w + rho g / (|g| + 1e-12). Afterward they are w again, bit for bit.

    Args:
        parameters: the weights, with the gradients g of the first pass. A gradient of None counts as zero.
        rho: length of the ascent, at least 0.

    Yields:
        |g| over all parameters, a scalar on the device.
    """
    moved: list[Tensor] = []
    gradients: list[Tensor] = []
    for parameter in parameters:
        if parameter.grad is not None:
            moved.append(parameter)
            gradients.append(parameter.grad)
    before = [parameter.detach().clone() for parameter in moved]
    with torch.no_grad():
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_add_(moved, list(torch._foreach_mul(gradients, rho / (norm + FLOOR))))
    try:
        yield norm
    finally:
        with torch.no_grad():
            torch._foreach_copy_(moved, before)


@contextmanager
def fixed_statistics(module: nn.Module) -> Iterator[None]:
    """Inside, batch normalization uses the statistics of the batch and leaves its running statistics unchanged."""
    norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    momenta = [(m, m.momentum) for m in norms]
    kept = [(m.num_batches_tracked, m.num_batches_tracked.clone()) for m in norms if m.num_batches_tracked is not None]
    for m in norms:
        m.momentum = 0.0
    try:
        yield
    finally:
        for m, momentum in momenta:
            m.momentum = momentum
        for counter, value in kept:
            counter.copy_(value)
