"""Features or logits of images, in eval mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from longtail.core.progress import Progress
from longtail.train.batches import ImageSet

BATCH = 512


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and, on a GPU, whole float32; afterwards every module and switch is as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    model.eval()
    try:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def outputs(module: nn.Module, images: ImageSet, width: int, label: str, progress: str) -> np.ndarray:
    """What ``module`` says of each image: (n, width) float32 in the order of ``images``.

    Eval mode (running batch-norm statistics), no augmentation, no gradient. Of a backbone these are the pooled
    features, of a classifier the logits.
    """
    rows = np.empty((len(images.labels), width), np.float32)
    start = 0
    with evaluating(module), Progress(len(rows), label, progress) as report:
        for pixels, _ in images.eval_batches(BATCH):
            rows[start : start + len(pixels)] = module(pixels).float().cpu().numpy()
            start += len(pixels)
            report.advance(len(pixels))
    return rows
