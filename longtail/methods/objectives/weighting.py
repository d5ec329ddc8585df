"""Cross-entropy losses with class weights, and the rules that decide when the weights count.

Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019 (LDAM-DRW).

- ``none``: no weights.
- ``reweight``: weights in all epochs.
- ``drw``: deferred re-weighting. No weights before ``drw_epoch`` (0-based), weights from then on.
- ``resample``: no weights. The stage draws images with the ``effective_number`` sampler instead.

Deviations:

- The released ``Resample`` does nothing, because its loader is built before its sampler.
- The released DRW fails at twice its switching epoch. Here it switches once, after 80 % of the epochs unless
  ``drw_epoch`` is given.

The images of a batch may be mixed with each other, each with its own partner and share (``longtail.augment.mixing``).
A row then counts for both labels, by their shares. The share of CutMix is counted in pixels, as Yun et al. do.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.augment.mixing import cutmix, draw_boxes, draw_shares, kept_share, mixup
from longtail.data.effective_number import class_weights
from longtail.methods.objectives.params import WeightingParams
from longtail.models.classifier import Classifier
from longtail.train.batches import Batch
from longtail.train.objective import Objective, Position, TaskInfo


class Weighted(Objective):
    """Base of the objectives with one view, one loss per row and one weight per class.

    Logs the accuracy on the augmented training images, in [0, 1]. A mixed image counts by the shares of its labels.

    Args:
        task: the task.
        weighting: keys of ``WeightingParams``.

    Raises:
        ConfigError: a value that is not allowed.
    """

    def __init__(self, task: TaskInfo, **weighting: Any) -> None:
        super().__init__(task)
        self.weighting = WeightingParams(**weighting)
        drw_epoch = self.weighting.drw_epoch
        self.drw_epoch = task.epochs * 8 // 10 if isinstance(drw_epoch, str) else drw_epoch
        self.weights: Tensor
        self.register_buffer("weights", torch.from_numpy(class_weights(task.counts, self.weighting.beta)).float())

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row: (B, C) float32, (B,) int64 -> (B,)."""
        return F.cross_entropy(logits, labels, reduction="none")

    def weights_in(self, epoch: int) -> Tensor | None:
        """(C,) class weights in a 0-based epoch, or None if all classes count the same."""
        counts = self.weighting.rule == "reweight" or (self.weighting.rule == "drw" and epoch >= self.drw_epoch)
        return self.weights if counts else None

    def total(self, logits: Tensor, labels: Tensor, weights: Tensor | None, shares: Tensor | None = None) -> Tensor:
        """The scalar loss of all rows. ``shares`` (B,) is how much each row counts; without it all count the same."""
        return weighted_mean(self.losses(logits, labels), labels, weights, shares)

    def loss(self, model: Classifier, batch: Batch, position: Position) -> tuple[Tensor, dict[str, Tensor]]:
        (images,), labels, shares = batch.views, batch.labels, None
        if self.weighting.mix != "none":
            images, labels, shares = self.mixed(images, labels)
        logits = model(images).float()
        if shares is not None:
            logits = logits.repeat(2, 1)
        correct = weighted_mean((logits.detach().argmax(dim=1) == labels).float(), labels, None, shares)
        return self.total(logits, labels, self.weights_in(position.epoch), shares), {"train_accuracy": correct}

    def mixed(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mixed images (B, channels, H, W), with the labels (2B,) and shares (2B,) of both their sources."""
        share = draw_shares(len(images), self.weighting.mix_alpha, images.device)
        partner = torch.randperm(len(images), device=images.device)
        if self.weighting.mix == "mixup":
            images = mixup(images, images[partner], share)
        else:
            box = draw_boxes(share, *images.shape[2:])
            images, share = cutmix(images, images[partner], box), kept_share(box, *images.shape[2:])
        return images, torch.cat([labels, labels[partner]]), torch.cat([share, 1 - share])


def weighted_mean(losses: Tensor, labels: Tensor, weights: Tensor | None, shares: Tensor | None = None) -> Tensor:
    """sum_i s_i w_{y_i} l_i / sum_i s_i w_{y_i}, as in torch's weighted cross-entropy; the mean without w and s.

    The scale of the weights does not matter. A batch with one class only is not re-weighted at all.

    Args:
        losses: (B,) l.
        labels: (B,) y.
        weights: (C,) w, or None for ones.
        shares: (B,) s, or None for ones.
    """
    if weights is None and shares is None:
        return losses.mean()
    row_weights = torch.ones_like(losses) if weights is None else weights[labels]
    row_weights = row_weights if shares is None else row_weights * shares
    return (row_weights * losses).sum() / row_weights.sum()
