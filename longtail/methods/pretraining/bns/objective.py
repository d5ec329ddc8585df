"""Balanced Negative Sampling (BNS): supervised contrastive pretraining on two views.

Source: Lin and Yuan, "Long-Tailed Recognition via Information-Preservable Two-Stage Learning", NeurIPS 2025,
arXiv 2510.08836, and its official code. Paper and code define different losses. ``variant="code"`` is the loss of the
code, which the published checkpoints come from. ``variant="paper"`` is the equation of the paper.

Deviations:

- The length of an embedding is at least 1e-6. The floor in the release is the precision of float64, which gives a
  gradient of about 1e18 at an embedding of zeros.
- All cosines come from one matrix product of unit rows. The release builds temporaries of (2B, 2B, D), which take
  gigabytes at its own batch sizes. The product is float32, also under autocast, which would use half precision.
- The batch size is read from the input. The released module fixes it at construction and fails on a shorter batch.
- The log of a sigmoid is computed as a softplus.

B images, D dimensions of an embedding.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.methods.objectives.contrast import Projector, unit_rows
from longtail.methods.pretraining.bns import PRETRAINING, BNSParams
from longtail.models.classifier import Classifier
from longtail.train.batches import Batch
from longtail.train.objective import Objective, Position, TaskInfo

EXTRA_POSITIVES, NEGATIVES = 1, 4


def bns_loss(e1: Tensor, e2: Tensor, labels: Tensor, temperature: float = 0.5) -> Tensor:
    """The released loss: the mean of softplus(-a) + softplus(b) over the 2B rows of both views, see ``bns_means``.

    It is always above log 2, because b is not negative. A value that settles near 0.7 has converged.

    Args:
        e1, e2: (B, D) embeddings of the two views, of any length; B >= 1.
        labels: (B,) integers.
        temperature: divides the cosines. The release uses 0.5.

    Returns:
        A scalar, float64 for float64 embeddings and float32 for all others, also under autocast.
    """
    a, b = bns_means(e1, e2, labels, temperature)
    return (F.softplus(-a) + F.softplus(b)).mean()


def bns_means(e1: Tensor, e2: Tensor, labels: Tensor, temperature: float = 0.5) -> tuple[Tensor, Tensor]:
    """The two quantities that the released loss compares, for each of the 2B rows of [e1; e2].

    Returns:
        a: (2B,) mean of exp(cosine / temperature) over the other rows of the same label.
        b: (2B,) sum of exp(cosine / temperature) over the rows of other labels, divided by 2B, not by their number. So
            a row of a frequent class, which has fewer negatives, gets a smaller b. 0 if all labels are equal.
    """
    _check(e1, e2, labels)
    with torch.autocast(e1.device.type, enabled=False):
        rows = torch.cat([unit_rows(e1), unit_rows(e2)])
        similarity = (rows @ rows.T / temperature).exp()
    both = labels.repeat(2)
    same = both[:, None] == both
    positive = same & ~torch.eye(len(both), dtype=torch.bool, device=same.device)
    a = similarity.masked_fill(~positive, 0).sum(dim=1) / positive.sum(dim=1)
    b = similarity.masked_fill(same, 0).sum(dim=1) / len(both)
    return a, b


def bns_loss_paper(
    e1: Tensor,
    e2: Tensor,
    labels: Tensor,
    temperature: float = 0.5,
    extra_positives: int = EXTRA_POSITIVES,
    negatives: int = NEGATIVES,
) -> Tensor:
    """The loss of the paper's equation: binary logistic terms of cosine / temperature, with drawn and summed negatives.

    Anchor i has two sets of rows, drawn without replacement, and smaller if the batch has fewer rows:

    - Q: rows of view 1, its own and up to m others of its label.
    - V: up to n rows of view 2 with other labels.

    Its loss is the mean of softplus(-q . v_i) over q in Q, plus the sum over v in V of the mean of softplus(q . v) over
    q in Q. Each product is a cosine divided by the temperature. The result is the mean over anchors. It is balanced:
    every anchor has n negatives, independent of the size of its class.

    The paper does not give m, n and the temperature. The defaults here are:

    - m = 1, because all but the rarest classes have that many further images in a batch.
    - n = 4. The negatives are summed and the positives averaged, so a larger n needs a lower learning rate. Every batch
      has that many negatives, even for the largest class.
    - A temperature of 0.5, as in the release.

    Args:
        e1, e2: (B, D) embeddings of the two views, of any length; B >= 1.
        labels: (B,) integers.
        temperature: divides the cosines.
        extra_positives: m >= 0.
        negatives: n >= 0.

    Returns:
        A scalar, float64 for float64 embeddings and float32 for all others, also under autocast. The draws come from
        torch's global generator of the embeddings' device.
    """
    _check(e1, e2, labels)
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=same.device)
    # No row is both a positive and a negative of an anchor, so one set of random keys serves both.
    keys = torch.rand(same.shape, device=same.device)
    queries = itself | _lowest(keys, same & ~itself, extra_positives)
    drawn = _lowest(keys, ~same, negatives)
    with torch.autocast(e1.device.type, enabled=False):
        similarity = unit_rows(e1) @ unit_rows(e2).T / temperature
        mean = queries / queries.sum(dim=1, keepdim=True).to(similarity.dtype)
        pull = (mean * F.softplus(-similarity).T).sum(dim=1)
        push = (mean @ F.softplus(similarity)).masked_fill(~drawn, 0).sum(dim=1)
    return (pull + push).mean()


@torch.no_grad()
def mean_similarities(e1: Tensor, e2: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cosine between the views over all pairs of equal labels, own pairs included, and of different labels.

    Both are scalars. The second is 0 if all labels are equal.
    """
    _check(e1, e2, labels)
    with torch.autocast(e1.device.type, enabled=False):
        cosine = unit_rows(e1) @ unit_rows(e2).T
    same = labels[:, None] == labels
    positive = cosine.masked_fill(~same, 0).sum() / same.sum()
    negative = cosine.masked_fill(same, 0).sum() / (~same).sum().clamp(min=1)
    return positive, negative


class BNS(Objective):
    """BNS on two views. Each has its own forward pass, so batch statistics are those of one view.

    Logs ``positive_similarity`` and ``negative_similarity``, see ``mean_similarities``. The model embeds images and
    does not predict, so its accuracy on validation images is meaningless.

    Args:
        task: the task.
        params: keys of ``BNSParams``.

    Raises:
        ConfigError: a value that is not allowed.
    """

    views = PRETRAINING.views

    def __init__(self, task: TaskInfo, **params: Any) -> None:
        super().__init__(task)
        self.params = BNSParams(**params)

    def create_head(self) -> nn.Module:
        return Projector(self.task.num_features, self.params.projector_hidden, self.params.projector_dim)

    def loss(self, model: Classifier, batch: Batch, position: Position) -> tuple[Tensor, dict[str, Tensor]]:
        e1, e2 = model(batch.views[0]), model(batch.views[1])
        if self.params.variant == "code":
            loss = bns_loss(e1, e2, batch.labels, self.params.temperature)
        else:
            draws = self.params.extra_positives, self.params.negatives
            loss = bns_loss_paper(e1, e2, batch.labels, self.params.temperature, *draws)
        positive, negative = mean_similarities(e1, e2, batch.labels)
        return loss, {"positive_similarity": positive, "negative_similarity": negative}


def _check(e1: Tensor, e2: Tensor, labels: Tensor) -> None:
    assert e1.ndim == 2 and e1.shape == e2.shape and labels.shape == e1.shape[:1] and len(labels) > 0


def _lowest(keys: Tensor, candidates: Tensor, number: int) -> Tensor:
    """(B, B) bool: the ``number`` candidates of each row with the lowest keys, which are in [0, 1); all if fewer."""
    values, places = keys.masked_fill(~candidates, 2.0).topk(min(number, keys.shape[1]), largest=False)
    return torch.zeros_like(candidates).scatter(1, places, values < 1)
