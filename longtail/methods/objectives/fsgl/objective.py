"""FSGL: feature scaling, mixture consistency, a loss that moves toward re-weighting, and sharpness-aware minimization.

Source: the released code of Wang, You, Zheng, "Feature Scaling Guided Learning" (FSGL), 2024. Without scaling
(``gamma`` 0) and SAM (``rho`` 0) it is GLMC, Du et al., "Global and Local Mixture Consistency Cumulative Learning for
Long-Tailed Visual Recognitions", CVPR 2023. The published abstract describes a scaling by class frequency and a new
loss. The released code scales by class index, and its active loss is GLMC's. Published numbers come from the code.

What the released code does, and what this module does:

- It scales by the class *index*, which on ImageNet-LT has nothing to do with frequency. Here ``fsm_order="rank"``, the
  default, scales by the rank of the class count, and ``"index"`` scales as released. On CIFAR-LT the two are the same.
- Its consistency term is missing from SAM's first pass. Here too, the ascent follows the classification loss only.
- Its SAM fails on one device, because the first pass gives two layers no gradient. See the module ``sam``.
- Its CutMix labels keep the drawn share, although the pasted box is smaller. The default here is the same;
  ``cutmix_area_label`` uses the share of the pixels.
- Its argument ``beta`` has no effect: shares are uniform. It does not exist here.
- Its uniform scaling trains without any scaling, and its halved scaling changes one class. ``fsm_variant`` implements
  what they were meant to be.
- It computes a masked binary cross-entropy and never uses it. ``masked_bce_weight`` adds it.
- It logs the loss of SAM's first pass, without consistency. Here the full loss at the unmoved weights is logged.
- For its learning rate on ImageNet-LT, see ``longtail.train.schedule``.

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
    """Two mixed views of a batch.

    Attributes:
        images: (B, channels, H, W) of each view.
        labels, partners: (B,) labels of the first and of the second source.
        shares: (B,) or (1,) share of the first source in each view.
    """

    images: tuple[Tensor, Tensor]
    labels: Tensor
    partners: Tensor
    shares: tuple[Tensor, Tensor]


class FSGL(Objective):
    """FSGL on two augmented views and a partner batch.

    The model's own head is the re-weighted one, which predicts. The plain head, the projection and the prediction layer
    belong to the objective and are dropped after training. So is the scaling: evaluation does not depend on ``gamma``.

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
        """Mix the first views by MixUp and the second by CutMix, with one share and one box for the batch."""
        partner = batch.partner
        assert partner is not None
        first, second = batch.views
        share = draw_shares(1, 1.0, first.device)
        box = draw_boxes(share, *first.shape[2:])
        area = kept_share(box, *first.shape[2:]) if self.params.cutmix_area_label else share
        images = mixup(first, partner.views[0], share), cutmix(second, partner.views[1], box)
        return Mixed(images, batch.labels, partner.labels, (share, area))

    def losses(self, model: Classifier, mixed: Mixed, position: Position) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The classification loss, the consistency term, and scalars for the training curves."""
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
        """(B,) factor of the features of each mixed image: the label-weighted mean of the two class factors."""
        return share * self.scales[mixed.labels] + (1 - share) * self.scales[mixed.partners]


def scaling_table(counts: np.ndarray, gamma: float, order: str = "rank", variant: str = "linear") -> np.ndarray:
    """Factor of the features of each class, (C,) float64.

    At position k it is 1 + gamma - k (gamma / C), rounded to two decimals exactly as Python rounds this expression.

    Args:
        counts: (C,) training images.
        gamma: at least 0.
        order: ``rank``: k is the position by descending count, with ties by index and empty classes last. ``index``: k
            is the class index.
        variant: see ``FSGLParams``.
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
    """n_k^(-exponent), scaled to a mean of 1 over the classes with images, (C,) float64. An empty class has 0."""
    counts = np.asarray(counts, np.float64)
    weights = np.power(counts, -exponent, out=np.zeros_like(counts), where=counts > 0)
    return weights * np.count_nonzero(counts) / weights.sum()


def soft_cross_entropy(
    logits: Tensor, labels: Tensor, partners: Tensor, share: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Mean over rows of -share w_y log p_y - (1 - share) w_y' log p_y'. It divides by B, not by the sum of weights.

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
    """Minus the mean cosine of (B, P) rows, in float32. No gradient reaches ``projection``."""
    return -F.cosine_similarity(prediction.float(), projection.detach().float(), dim=1).mean()


def masked_bce(logits: Tensor, labels: Tensor, partners: Tensor, share: Tensor) -> Tensor:
    """Sum of the binary cross-entropy over the classes of both labels and those above p = 0.7, divided by B."""
    own, other = (F.one_hot(of, logits.shape[1]).to(logits) for of in (labels, partners))
    target = share.view(-1, 1) * own + (1 - share.view(-1, 1)) * other
    counted = (logits.detach().sigmoid() >= CONFIDENT) | (target > 0)
    every = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (counted * every).sum() / len(logits)
