"""Balanced Negative Sampling, a supervised contrastive pretraining of two views.

Source: Lin and Yuan, "Long-Tailed Recognition via Information-Preservable Two-Stage Learning", NeurIPS 2025,
arXiv 2510.08836, and its official code. Paper and code define different losses; the published checkpoints come from
the code's, which is ``variant="code"`` here, and the paper's equation is ``variant="paper"``.

Deviations:

- The length of an embedding is floored at 1e-6. The released floor at the precision of float64 gives a gradient of
  the order of 1e18 at an embedding of zeros.
- All cosines come from one matrix product of unit rows. The released code builds (2B, 2B, D) temporaries, gigabytes
  at its own batch sizes. The product is float32 also under autocast, which would lower it to half precision.
- The batch size is read from the input. The released module fixes it at construction and fails on a shorter batch.
- log sigmoid is a softplus, nowhere a logarithm of a sigmoid.

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
    """The released loss: the mean over both views' 2B rows of softplus(-a) + softplus(b), see ``bns_means``.

    Always above log 2, since b is not negative: a value that settles near 0.7 has converged.

    Args:
        e1, e2: (B, D) embeddings of the two views, of any length; B >= 1.
        labels: (B,) integers.
        temperature: divides the cosines; the release uses 0.5.

    Returns:
        A scalar, float64 for float64 embeddings and float32 for all others, under autocast too.
    """
    a, b = bns_means(e1, e2, labels, temperature)
    return (F.softplus(-a) + F.softplus(b)).mean()


def bns_means(e1: Tensor, e2: Tensor, labels: Tensor, temperature: float = 0.5) -> tuple[Tensor, Tensor]:
    """What the released loss compares, for each of the 2B rows of [e1; e2].

    Returns:
        a: (2B,) mean of exp(cosine / temperature) over the other rows of the same label.
        b: (2B,) sum of exp(cosine / temperature) over the rows of other labels, divided by 2B and not by their number:
            a row of a frequent class meets fewer negatives and gets a smaller b. 0 where all labels are equal.
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
    """The loss of the paper's equation: binary logistic terms of cosine / temperature, negatives drawn and summed.

    Anchor i has a set Q of rows of view 1, its own and up to m others of its label, and up to n rows v of view 2 with
    other labels, all drawn without replacement and fewer where the batch has fewer. Its loss is the mean over q in Q
    of softplus(-q . v_i) plus the sum over v of softplus(q . v), each product a cosine over the temperature; the result
    is the mean over anchors. Balanced: every anchor meets the same n negatives, whatever the size of its class.

    The paper leaves m, n and the temperature open. Our choice is m = 1, which all but the rarest classes find in a
    batch; n = 4, since n weighs the summed negatives against the mean positive, so that many ask for a lower rate, and
    any batch offers that many to the largest class too; and the release's temperature of 0.5.

    Args:
        e1, e2: (B, D) embeddings of the two views, of any length; B >= 1.
        labels: (B,) integers.
        temperature: divides the cosines.
        extra_positives: m >= 0.
        negatives: n >= 0.

    Returns:
        A scalar, float64 for float64 embeddings and float32 for all others, under autocast too. The draws come from
        torch's global generator of the embeddings' device.
    """
    _check(e1, e2, labels)
    same = labels[:, None] == labels
    itself = torch.eye(len(labels), dtype=torch.bool, device=same.device)
    # Positives and negatives of an anchor are never the same row, so that one set of random keys serves both.
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
    """Mean cosine between the views over all pairs of equal labels, own pair included, and over all of different ones.

    Both are scalars; the second is 0 where all labels are equal.
    """
    _check(e1, e2, labels)
    with torch.autocast(e1.device.type, enabled=False):
        cosine = unit_rows(e1) @ unit_rows(e2).T
    same = labels[:, None] == labels
    positive = cosine.masked_fill(~same, 0).sum() / same.sum()
    negative = cosine.masked_fill(same, 0).sum() / (~same).sum().clamp(min=1)
    return positive, negative


class BNS(Objective):
    """BNS of two views, each through a forward pass of its own: batch statistics are those of one view.

    Logs ``positive_similarity`` and ``negative_similarity``, see ``mean_similarities``. The model embeds and does not
    predict: its accuracy on validation images means nothing.

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
    """(B, B) bool: in each row the ``number`` candidates with the lowest keys in [0, 1), or all if there are fewer."""
    values, places = keys.masked_fill(~candidates, 2.0).topk(min(number, keys.shape[1]), largest=False)
    return torch.zeros_like(candidates).scatter(1, places, values < 1)
