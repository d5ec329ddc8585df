"""SimSiam: self-supervised pretraining on two views, without labels and without negative pairs.

Sources:

- Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021, arXiv 2011.10566, and its official code,
  which has ImageNet only. The size of the projector follows the paper's experiments on CIFAR.
- Liu & Liu, "Investigate the Essence of Long-Tailed Recognition from a Unified Perspective", arXiv 2107.03758: the
  released classifier script starts from a SimSiam checkpoint.

The last batch normalization of the projector has no scale and no shift, as in the official code. The paper does not
mention them. A shift would get no gradient: targets have none, and the batch normalization of the predictor removes it.

Deviations:

- The paper's crops on CIFAR have at least 0.2 of the area. Those of the policy ``moco`` for images in memory have at
  least 0.08. For image files, the two recipes are the same.
- The release sets the last scale of every residual block to 0 at the start. Here the backbone starts like any other.
- Batch statistics are those of one view on one device. The release shares them among its GPUs.
- Similarities are float32, also under autocast.

B images, ``dim`` dimensions of an output.
"""

from itertools import pairwise
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from longtail.methods.objectives.contrast import NORM_FLOOR, BatchNorm, unit_rows
from longtail.methods.pretraining.simsiam import PRETRAINING, SimSiamParams
from longtail.models.classifier import Classifier
from longtail.train.batches import Batch
from longtail.train.objective import Objective, Position, TaskInfo


class SimSiam(Objective):
    """Each view's prediction, from the predictor, is to point where the other view's output points.

    Outputs come from the backbone and the projector, which is the head. As targets they are constants: without this
    stop-gradient, outputs collapse. Each view has its own forward pass, so batch statistics are those of one view.

    Logs ``output_std`` and ``output_dimensions``, two signs of collapse; see the functions of these names. The model
    does not predict classes.

    Args:
        task: the task.
        params: keys of ``SimSiamParams``.

    Raises:
        ConfigError: a value that is not allowed.
    """

    views = PRETRAINING.views

    def __init__(self, task: TaskInfo, **params: Any) -> None:
        super().__init__(task)
        self.params = own = SimSiamParams(**params)
        hidden = max(1, own.dim // 4) if isinstance(own.predictor_hidden, str) else own.predictor_hidden
        self.predictor = nn.Sequential(
            nn.Linear(own.dim, hidden, bias=False), BatchNorm(hidden), nn.ReLU(), nn.Linear(hidden, own.dim)
        )

    def create_head(self) -> nn.Module:
        own, features = self.params, self.task.num_features
        hidden = features if isinstance(own.projector_hidden, str) else own.projector_hidden
        return projector(features, hidden, own.dim, own.projector_layers)

    def at_constant_rate(self) -> list[nn.Module]:
        return [self.predictor] if self.params.predictor_lr == "constant" else []

    def loss(self, model: Classifier, batch: Batch, position: Position) -> tuple[Tensor, dict[str, Tensor]]:
        z1, z2 = model(batch.views[0]), model(batch.views[1])
        loss = simsiam_loss(self.predictor(z1), self.predictor(z2), z1, z2)
        return loss, {"output_std": output_std(z1), "output_dimensions": output_dimensions(z1)}


def projector(num_features: int, hidden: int, dim: int, layers: int) -> nn.Sequential:
    """(B, num_features) -> (B, dim): linear layers without biases, each with batch normalization.

    A ReLU follows every layer except the last one, whose batch normalization has no scale and no shift.
    """
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise([num_features, *[hidden] * (layers - 1)]):
        parts += [nn.Linear(inputs, outputs, bias=False), BatchNorm(outputs), nn.ReLU()]
    return nn.Sequential(*parts, nn.Linear(hidden, dim, bias=False), BatchNorm(dim, affine=False))


def simsiam_loss(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """D(p1, z2) / 2 + D(p2, z1) / 2, where D is the negative mean cosine of the rows (equation 4). From -1 to 1.

    Args:
        p1, p2: (B, dim) predictions of the two views.
        z1, z2: (B, dim) their outputs, which get no gradient.

    Returns:
        A scalar, float64 for float64 rows and float32 for all others, also under autocast.
    """
    return (negative_cosine(p1, z2) + negative_cosine(p2, z1)) / 2


def negative_cosine(p: Tensor, z: Tensor) -> Tensor:
    """-mean of the cosines of the rows of ``p`` and ``z``, both (B, dim). ``z`` gets no gradient."""
    with torch.autocast(p.device.type, enabled=False):
        return -(unit_rows(p) * unit_rows(z.detach())).sum(dim=1).mean()


@torch.no_grad()
def output_std(z: Tensor) -> Tensor:
    """Mean over features of the standard deviation of z / |z|, times sqrt(dim). ``z`` is (B, dim).

    The paper's sign of collapse: 0 if all rows point the same way, about 1 if they point in all directions. It does not
    see a partial collapse, for example to two opposite directions. See ``output_dimensions``.
    """
    return unit_rows(z).std(dim=0, correction=0).mean() * sqrt(z.shape[1])


@torch.no_grad()
def output_dimensions(z: Tensor) -> Tensor:
    """Effective number of dimensions of the rows of ``z``, (B, dim): 1 / the mean of the squared cosines of all pairs.

    From 1, where all rows lie on a line, to at most B and dim. Pairs of a row with itself count. Rows of zeros give 0.
    """
    with torch.autocast(z.device.type, enabled=False):
        rows = unit_rows(z)
        cosines = rows @ rows.T
    return cosines.trace().square() / cosines.square().sum().clamp(min=NORM_FLOOR)
