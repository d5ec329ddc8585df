"""Features or logits of images, in eval mode."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from longtail.core.progress import Progress
from longtail.train.batches import ImageSet

LARGEST_BATCH = 512
BATCH_PIXELS = LARGEST_BATCH * 64**2  # above 64 x 64 pixels a batch has fewer images
CACHED_PIXELS = BATCH_PIXELS // 4  # for features on a CPU, where larger batches do not fit in its cache


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


class FeatureExtractor:
    """Features of images by a backbone that is used for nothing else.

    On a CPU, colored images and the weights are in channels-last order and batches of large images are small, which is
    up to three times as fast.

    Args:
        backbone: a module (B, channels, H, W) -> (B, D) with ``num_features`` = D; it is moved to ``device``.
        channels: 1 or 3.
        progress: mode of the progress report.
    """

    def __init__(self, backbone: nn.Module, channels: int, device: torch.device, progress: str) -> None:
        self._order = torch.channels_last if channels > 1 else torch.contiguous_format
        self._backbone = backbone.to(device).to(memory_format=self._order)
        self._on_cpu, self._progress = device.type == "cpu", progress
        self._width = int(backbone.num_features)  # type: ignore[arg-type]

    @torch.no_grad()
    def features(self, images: ImageSet, label: str) -> np.ndarray:
        """(n, D) float32 of the images without augmentation, in their order."""
        rows = np.empty((len(images.labels), self._width), np.float32)
        start = 0
        with evaluating(self._backbone), Progress(len(rows), label, self._progress) as report:
            for pixels, _ in images.eval_batches(self._batch(images)):
                rows[start : start + len(pixels)] = self._forward(pixels)
                start += len(pixels)
                report.advance(len(pixels))
        return rows

    @torch.no_grad()
    def view(self, images: ImageSet, seed: int, label: str) -> np.ndarray:
        """(n, D) float32 of one augmented view of each image, in their order. ``seed``: of the augmentation."""
        rows = np.empty((len(images.labels), self._width), np.float32)
        order = np.arange(len(rows))
        with evaluating(self._backbone), Progress(len(rows), label, self._progress) as report:
            for batch in images.train_batches(order, self._batch(images), 1, seed):
                rows[batch.rows.cpu().numpy()] = self._forward(batch.views[0])
                report.advance(len(batch.rows))
        return rows

    def _batch(self, images: ImageSet) -> int:
        usual = evaluation_batch(images)
        return max(1, min(usual, CACHED_PIXELS // images.pixels)) if self._on_cpu and images.pixels > 64**2 else usual

    def _forward(self, pixels: Tensor) -> np.ndarray:
        found: Tensor = self._backbone(pixels.contiguous(memory_format=self._order))
        return found.float().cpu().numpy()
