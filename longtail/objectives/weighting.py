"""Cross-entropy losses with class weights, and the train rules that say when the weights count.

Source: Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss", NeurIPS 2019 (LDAM-DRW).

- ``none``: no weights.
- ``reweight``: weights in all epochs.
- ``drw``: deferred; none before ``drw_epoch`` (0-based), weights from it on.
- ``resample``: none; the stage draws images with the ``effective_number`` sampler instead.

Deviations: the released ``Resample`` does nothing, since its loader is built before its sampler. The released DRW fails
from twice its switching epoch on; here it switches once, after 80 % of the epochs unless ``drw_epoch`` is given.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from longtail.data.batches import Batch
from longtail.data.effective_number import BETA, class_weights
from longtail.engine.objective import Moment, Objective, Setting
from longtail.errors import ConfigError
from longtail.models.classifier import Classifier

RULES = ("none", "resample", "reweight", "drw")


class Weighted(Objective):
    """Base of the objectives that are a loss for each row and a weight for each class; one view.

    Logs the accuracy on the augmented training images, in percent.

    Args:
        setting: the task.
        rule: one of RULES.
        drw_epoch: of ``drw``; auto is 80 % of the epochs: 160 of 200, the first drop of the released rate.
        beta: of the effective number.

    Raises:
        ConfigError: a value that is not allowed.
    """

    options: tuple[str, ...] = ("rule", "drw_epoch", "beta")

    def __init__(self, setting: Setting, rule: str = "none", drw_epoch: int | str = "auto", beta: float = BETA) -> None:
        super().__init__(setting)
        if rule not in RULES:
            raise ConfigError(f"train.rule: {rule!r} given, one of {', '.join(RULES)} expected")
        self.rule = rule
        self.drw_epoch = setting.epochs * 8 // 10 if isinstance(drw_epoch, str) else drw_epoch
        self.weights: Tensor
        self.register_buffer("weights", torch.from_numpy(class_weights(setting.counts, beta)).float())

    def losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each row: (B, C) float32, (B,) int64 -> (B,)."""
        return F.cross_entropy(logits, labels, reduction="none")

    def weights_in(self, epoch: int) -> Tensor | None:
        """(C,) weights of a 0-based epoch, or None where all classes count alike."""
        counts = self.rule == "reweight" or (self.rule == "drw" and epoch >= self.drw_epoch)
        return self.weights if counts else None

    def total(self, logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """The scalar loss of a batch."""
        return weighted_mean(self.losses(logits, labels), labels, weights)

    def loss(self, model: Classifier, batch: Batch, moment: Moment) -> tuple[Tensor, dict[str, Tensor]]:
        logits = model(batch.views[0]).float()
        correct = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return self.total(logits, batch.labels, self.weights_in(moment.epoch)), {"train_accuracy": 100 * correct}


def weighted_mean(losses: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """sum_i w_{y_i} l_i / sum_i w_{y_i}, as torch's weighted cross-entropy; the mean where there are no weights.

    The scale of the weights does not matter, and a batch of one class is not re-weighted at all.
    """
    if weights is None:
        return losses.mean()
    of_row = weights[labels]
    return (of_row * losses).sum() / of_row.sum()
