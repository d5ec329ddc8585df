"""FSGL: feature scaling, mixture consistency, a loss that drifts to re-weighting, and sharpness-aware minimization.

Source: Wang, You, Zheng, "Feature Scaling Guided Learning" (FSGL), 2024, by its released code; without scaling
(``gamma`` 0) and without SAM (``rho`` 0) it is GLMC, Du et al., "Global and Local Mixture Consistency Cumulative
Learning for Long-Tailed Visual Recognitions", CVPR 2023. The published abstract names a scaling by class frequency and
a new loss; the released code scales by class index and its active loss is GLMC's. Published numbers follow the code.

What the released code does, and what is done here:

- It scales by the class *index*, which on ImageNet-LT has nothing to do with frequency. ``fsm_order="rank"`` (default)
  scales by the rank of the class by its count, ``"index"`` as released; on CIFAR-LT the two are the same.
- The consistency term is missing from SAM's first pass. So it is here: the ascent follows the classification loss.
- Its SAM fails on one device, since the first pass gives two layers no gradient; see the module
  ``sam``.
- Labels of CutMix keep the drawn share, although the pasted box is smaller. So they do here;
  ``cutmix_area_label`` gives the share of the pixels.
- Its argument ``beta`` has no effect: shares are uniform. There is none here.
- Its uniform scaling alone trains without any, and its halved scaling changes one class; ``fsm_variant`` has what they
  were meant to be.
- A masked binary cross-entropy is computed and never used; ``masked_bce_weight`` adds it.
- The loss in its log is that of SAM's first pass, without consistency. Here it is the whole loss at the unmoved
  weights.
- Its learning rate on ImageNet-LT: see ``longtail.train.schedule``.

B images, C classes, D features.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.augment.mixing import cutmix, draw_boxes, draw_shares, kept_share, mixup
from longtail.core.params import refuse
from longtail.core.seeds import derive_seed
from longtail.data.samplers import PowerSampler, Sampler
from longtail.methods.objectives.fsgl import OBJECTIVE, FSGLParams
from longtail.methods.objectives.sam import ascended, fixed_statistics
from longtail.models.classifier import Classifier
from longtail.train.batches import Batch
from longtail.train.objective import Objective, Position, TaskInfo, Update

PROJECTION_DIM = 256
CONFIDENT = 0.7


@dataclass(frozen=True)
class Mixed:
    """Two mixed views of a batch: (B, channels, H, W), (B,) labels of both sources, (B,) share of the first source."""

    images: tuple[Tensor, Tensor]
    labels: Tensor
    partners: Tensor
    shares: tuple[Tensor, Tensor]


class FSGL(Objective):
    """FSGL on two augmented views and a partner batch.

    The model's own head is the re-weighted one, which predicts; the plain head, projection and prediction layer live
    here and are dropped after training, and so is the scaling: evaluation does not depend on ``gamma``.

    Logs ``plain_loss``, ``reweighted_loss``, ``consistency``, ``alpha`` and with SAM ``gradient_norm``.

    Args:
        task: the task, with a linear head unless ``gamma`` is 0.
        params: keys of ``FSGLParams``.

    Raises:
        ConfigError: a value that is not allowed.
    """

    views = OBJECTIVE.views

    def __init__(self, task: TaskInfo, **params: Any) -> None:
        super().__init__(task)
        self.params = own = FSGLParams(**params)
        if task.head != "linear" and own.gamma > 0:
            raise refuse(
                "train.head",
                "linear (or auto) with train.objective: fsgl, whose feature scaling a cosine head cannot see",
                task.head,
            )
        self.plain = nn.Linear(task.num_features, task.num_classes)
        self.projection = nn.Linear(task.num_features, PROJECTION_DIM)
        self.prediction = nn.Linear(PROJECTION_DIM, PROJECTION_DIM)
        self.scales: Tensor
        self.weights: Tensor
        table = scaling_table(task.counts, own.gamma, own.fsm_order, own.fsm_variant)
        self.register_buffer("scales", torch.from_numpy(table).float())
        self.register_buffer("weights", torch.from_numpy(power_weights(task.counts, own.label_exponent)).float())

    def partner_sampler(self, labels: np.ndarray) -> Sampler:
        return PowerSampler(labels, seed=derive_seed(self.task.seed, "partner"), exponent=self.params.resample_exponent)

    def step(
        self, model: Classifier, batch: Batch, position: Position, update: Update
    ) -> tuple[Tensor, dict[str, Tensor]]:
        mixed = self.mix(batch)
        with update.autocast():
            classification, consistency, logs = self.losses(model, mixed, position)
        loss = classification + self.params.consistency_weight * consistency
        if self.params.rho == 0:
            update.backward(loss)
        else:
            update.backward(classification)
            trained = [parameter for module in (model, self) for parameter in module.parameters()]
            statistics = fixed_statistics(model) if self.params.freeze_bn_second else nullcontext()
            with ascended(trained, self.params.rho) as norm, statistics:
                with update.autocast():
                    classification, consistency, _ = self.losses(model, mixed, position)
                update.backward(classification + self.params.consistency_weight * consistency)
            logs["gradient_norm"] = norm
        update.apply()
        return loss.detach(), logs

    def mix(self, batch: Batch) -> Mixed:
        """MixUp of the first views and CutMix of the second ones, with one share and one box for the whole batch."""
        partner = batch.partner
        assert partner is not None
        first, second = batch.views
        share = draw_shares(1, 1.0, first.device)
        box = draw_boxes(share, *first.shape[2:])
        area = kept_share(box, *first.shape[2:]) if self.params.cutmix_area_label else share
        images = mixup(first, partner.views[0], share), cutmix(second, partner.views[1], box)
        return Mixed(images, batch.labels, partner.labels, (share, area))

    def losses(self, model: Classifier, mixed: Mixed, position: Position) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The classification loss, the consistency term, and scalars for the curves."""
        alpha = 1 - (position.epoch / position.epochs) ** 2
        plain = reweighted = masked = torch.zeros((), device=mixed.labels.device)
        projections, predictions = [], []
        for images, share in zip(mixed.images, mixed.shares, strict=True):
            features = model.forward_features(images)
            if self.params.gamma > 0:
                features = features * self.scaling(mixed, share)[:, None]
            logits = self.plain(features).float()
            plain = plain + soft_cross_entropy(logits, mixed.labels, mixed.partners, share)
            reweighted = reweighted + soft_cross_entropy(
                model.head(features).float(), mixed.labels, mixed.partners, share, self.weights
            )
            if self.params.masked_bce_weight > 0:
                masked = masked + masked_bce(logits, mixed.labels, mixed.partners, share)
            projections.append(self.projection(features))
            predictions.append(self.prediction(projections[-1]))
        consistency = distance(predictions[0], projections[1]) + distance(predictions[1], projections[0])
        classification = alpha * plain + (1 - alpha) * reweighted
        if self.params.masked_bce_weight > 0:
            classification = classification + self.params.masked_bce_weight * masked
        logs = {"plain_loss": plain, "reweighted_loss": reweighted, "consistency": consistency}
        return classification, consistency, logs | {"alpha": torch.full_like(plain, alpha)}

    def scaling(self, mixed: Mixed, share: Tensor) -> Tensor:
        """(B,) what the features of each mixed image are multiplied by: its mean factor by its label."""
        return share * self.scales[mixed.labels] + (1 - share) * self.scales[mixed.partners]


def scaling_table(counts: np.ndarray, gamma: float, order: str = "rank", variant: str = "linear") -> np.ndarray:
    """What the features of each class are multiplied by, (C,) float64.

    With position k: 1 + gamma - k (gamma / C), rounded to two decimals as Python rounds that very expression.

    Args:
        counts: (C,) training images.
        gamma: >= 0.
        order: ``rank``, k is the position by falling count, ties by index and empty classes last; ``index``.
        variant: see ``FSGL``.
    """
    number = len(counts)
    table = np.array([round(1 + gamma - k * (gamma / number), 2) for k in range(number)])
    if variant == "uniform":
        return np.full(number, 1 + gamma)
    if variant == "head_half":
        table[np.arange(number) >= number / 2] = 1.0
    if order == "index":
        return table
    by_class = np.empty(number)
    by_class[np.argsort(-np.asarray(counts), kind="stable")] = table
    return by_class


def power_weights(counts: np.ndarray, exponent: float) -> np.ndarray:
    """n_k^(-exponent), scaled to a mean of 1 over the classes that have images, (C,) float64; an empty one weighs 0."""
    counts = np.asarray(counts, np.float64)
    weights = np.power(counts, -exponent, out=np.zeros_like(counts), where=counts > 0)
    return weights * np.count_nonzero(counts) / weights.sum()


def soft_cross_entropy(
    logits: Tensor, labels: Tensor, partners: Tensor, share: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean over rows of -share w_y log p_y - (1 - share) w_y' log p_y'; divided by B, not by the sum of weights.

    Args:
        logits: (B, C).
        labels, partners: (B,) y and y'.
        share: (B,) or (1,).
        weights: (C,) w, or None for ones.
    """
    log_p = F.log_softmax(logits, dim=1)
    own, other = share, 1 - share
    if weights is not None:
        own, other = own * weights[labels], other * weights[partners]
    first, second = (log_p.gather(1, of[:, None])[:, 0] for of in (labels, partners))
    return -(own * first + other * second).mean()


def distance(prediction: Tensor, projection: Tensor) -> Tensor:
    """Minus the mean cosine of (B, P) rows, in float32; no gradient reaches ``projection``."""
    return -F.cosine_similarity(prediction.float(), projection.detach().float(), dim=1).mean()


def masked_bce(logits: Tensor, labels: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """Binary cross-entropy over the classes of a label and those above a probability of 0.7, summed, divided by B."""
    own, other = (F.one_hot(of, logits.shape[1]).to(logits) for of in (labels, partners))
    target = share.view(-1, 1) * own + (1 - share.view(-1, 1)) * other
    counted = (logits.detach().sigmoid() >= CONFIDENT) | (target > 0)
    every = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (counted * every).sum() / len(logits)
