"""Momentum contrast (MoCo v2): self-supervised pretraining on two views, without labels.

Sources:

- He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020.
- Chen et al., "Improved Baselines with Momentum Contrastive Learning", 2020: the projector and stronger augmentation of
  version 2.
- Yang & Xu, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning", NeurIPS 2020: its use before
  long-tailed recognition.

The defaults are those of MoCo's public demo on CIFAR.

Deviations:

- The queue may have any length. In the release, it must be a multiple of the batch size. ``auto`` is at most half the
  training images. Then one query in eight meets an earlier view of its own image among its negatives. With as many keys
  as images, it is one in two.
- Batch norm can reveal a pair, because its two images share statistics. The release shuffles the keys among several
  GPUs, which does nothing on one. Here the shuffled keys pass in parts on one device, and the queries in one part.
  The CIFAR demo splits the queries too.
- The momentum encoder and the queue are updated after the step, see ``MoCo``.
- Similarities are float32, also under autocast.

B images, K keys in the queue.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from longtail.methods.objectives.contrast import KeyQueue, MomentumEncoder, Projector, unit_rows
from longtail.methods.pretraining.moco import PRETRAINING, MoCoParams
from longtail.models.classifier import Classifier
from longtail.train.batches import Batch
from longtail.train.objective import Objective, Position, TaskInfo

LONGEST_AUTO_QUEUE = 4096


class MoCo(Objective):
    """Cross-entropy of finding the key from view 1 for each query from view 0, among the keys of other images.

    The momentum encoder and the queue are updated in ``after_step``. The source updates before each pass of the keys.
    That is the same, because the two networks start equal and its first update changes nothing.

    Logs ``contrast_accuracy``, the share of queries nearest to their own key. The head is a projector and
    does not predict.

    Args:
        task: the task.
        params: keys of ``MoCoParams``. With small batches there are fewer ``splits``, so that each part has at least
            two images.

    Raises:
        ConfigError: a value that is not allowed.
    """

    views = PRETRAINING.views
    encoder: MomentumEncoder

    def __init__(self, task: TaskInfo, **params: Any) -> None:
        super().__init__(task)
        self.params = own = MoCoParams(**params)
        automatic = max(1, min(LONGEST_AUTO_QUEUE, int(task.counts.sum()) // 2))
        self.queue = KeyQueue(automatic if isinstance(own.queue, str) else own.queue, own.dim, random=True)

    def create_head(self) -> nn.Module:
        features = self.task.num_features
        return Projector(features, hidden=features, dim=self.params.dim)

    def attach(self, model: Classifier) -> None:
        self.encoder = MomentumEncoder(model, self.params.momentum)

    def loss(self, model: Classifier, batch: Batch, position: Position) -> tuple[Tensor, dict[str, Tensor]]:
        q = unit_rows(model(batch.views[0]))
        self.encoder.match_mode(model)
        k = unit_rows(in_shuffled_parts(self.encoder, batch.views[1], self.params.splits))
        self._latest = k, batch.labels
        logits = moco_logits(q, k, self.queue.keys, self.params.temperature)
        # Strictly nearest, so that a network that maps all images to one point scores 0, not 1.
        found = (logits[:, 0] > logits[:, 1:].amax(dim=1)).float().mean()
        return F.cross_entropy(logits, torch.zeros_like(batch.labels)), {"contrast_accuracy": found}

    def after_step(self, model: Classifier, position: Position) -> None:
        self.encoder.update(model)
        self.queue.enqueue(*self._latest)


def moco_logits(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """[q.k, q.queue] / T. The first column is the target of each query.

    Args:
        q, k: (B, dim) unit rows of the two views.
        queue: (K, dim) unit rows.
        temperature: T.

    Returns:
        (B, 1 + K), in the precision of q, also under autocast. Keys and queue get no gradient.
    """
    with torch.autocast(q.device.type, enabled=False):
        own = (q * k.detach()).sum(dim=1, keepdim=True)
        return torch.cat([own, q @ queue.detach().T], dim=1) / temperature


def in_shuffled_parts(encoder: nn.Module, x: Tensor, splits: int) -> Tensor:
    """The outputs of ``encoder`` for the rows of ``x``, in their order. The rows pass in random parts of equal size.

    There are ``splits`` parts, or fewer if a part would have less than two rows. Their sizes differ by at most one. The
    shuffle is drawn from torch's global generator.
    """
    order = torch.randperm(len(x), device=x.device)
    parts = max(1, min(splits, len(x) // 2))
    shuffled = torch.cat([encoder(part) for part in x[order].tensor_split(parts)])
    return torch.empty_like(shuffled).index_copy_(0, order, shuffled)
