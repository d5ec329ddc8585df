"""Cross-entropy losses with class weights, and the train rules that say when the weights count.

Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019 (LDAM-DRW).

- ``none``: no weights.
- ``reweight``: weights in all epochs.
- ``drw``: deferred; none before ``drw_epoch`` (0-based), weights from it on.
- ``resample``: none; the stage draws images with the ``effective_number`` sampler instead.

Deviations: the released ``Resample`` does nothing, since its loader is built before its sampler. The released DRW fails
from twice its switching epoch on; here it switches once, after 80 % of the epochs unless ``drw_epoch`` is given.

Images of a batch may be mixed among themselves, each with its own share and partner (``longtail.augment.mixing``): a
row then counts for both labels, by their shares. CutMix counts pixels, as Yun et al. do.
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
    """Base of the objectives that are a loss for each row and a weight for each class; one view.

    Logs the accuracy on the augmented training images, in [0, 1]; for mixed images by the shares of their labels.

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
        """(C,) weights of a 0-based epoch, or None where all classes count alike."""
        counts = self.weighting.rule == "reweight" or (self.weighting.rule == "drw" and epoch >= self.drw_epoch)
        return self.weights if counts else None

    def total(self, logits: Tensor, labels: Tensor, weights: Tensor | None, shares: Tensor | None = None) -> Tensor:
        """The scalar loss of rows that count ``shares`` (B,) of a row each, or all alike."""
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
        """Mixed images (B, channels, H, W), and for both of their sources (2B,) labels and shares."""
        share = draw_shares(len(images), self.weighting.mix_alpha, images.device)
        partner = torch.randperm(len(images), device=images.device)
        if self.weighting.mix == "mixup":
            images = mixup(images, images[partner], share)
        else:
            box = draw_boxes(share, *images.shape[2:])
            images, share = cutmix(images, images[partner], box), kept_share(box, *images.shape[2:])
        return images, torch.cat([labels, labels[partner]]), torch.cat([share, 1 - share])


def weighted_mean(losses: Tensor, labels: Tensor, weights: Tensor | None, shares: Tensor | None = None) -> Tensor:
    """sum_i s_i w_{y_i} l_i / sum_i s_i w_{y_i}, as torch's weighted cross-entropy; a plain mean without w and s.

    The scale of the weights does not matter, and a batch of one class is not re-weighted at all.
    """
    if weights is None and shares is None:
        return losses.mean()
    of_row = torch.ones_like(losses) if weights is None else weights[labels]
    of_row = of_row if shares is None else of_row * shares
    return (of_row * losses).sum() / of_row.sum()
