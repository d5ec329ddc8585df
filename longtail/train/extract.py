"""Features or logits of images, in eval mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from longtail.core.progress import Progress
from longtail.train.batches import ImageSet

LARGEST_BATCH = 512
BATCH_PIXELS = LARGEST_BATCH * 64**2  # above 64 x 64 pixels a batch has fewer images


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode and, on a GPU, full float32 (TF32 off). Afterwards every module and switch is as it was before."""
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


def evaluation_batch(images: ImageSet) -> int:
    """Images per batch without gradient: 512 up to 64 x 64 pixels, fewer above, at least 1."""
    return max(1, min(LARGEST_BATCH, BATCH_PIXELS // max(1, images.pixels)))


@torch.no_grad()
def outputs(module: nn.Module, images: ImageSet, width: int, label: str, progress: str) -> np.ndarray:
    """The module's outputs for each image: (n, width) float32, in the order of ``images``.

    Eval mode (running batch-norm statistics), no augmentation, no gradient. The outputs of a backbone are the pooled
    features, those of a classifier the logits.
    """
    rows = np.empty((len(images.labels), width), np.float32)
    start = 0
    with evaluating(module), Progress(len(rows), label, progress) as report:
        for pixels, _ in images.eval_batches(evaluation_batch(images)):
            rows[start : start + len(pixels)] = module(pixels).float().cpu().numpy()
            start += len(pixels)
            report.advance(len(pixels))
    return rows


@torch.no_grad()
def view_outputs(module: nn.Module, images: ImageSet, width: int, seed: int, label: str, progress: str) -> np.ndarray:
    """The module's outputs for one augmented view of each image: (n, width) float32, in the order of ``images``.

    seed: of the augmentation. Otherwise like ``outputs``.
    """
    rows = np.empty((len(images.labels), width), np.float32)
    order = np.arange(len(rows))
    with evaluating(module), Progress(len(rows), label, progress) as report:
        for batch in images.train_batches(order, evaluation_batch(images), 1, seed):
            rows[batch.rows.cpu().numpy()] = module(batch.views[0]).float().cpu().numpy()
            report.advance(len(batch.rows))
    return rows
