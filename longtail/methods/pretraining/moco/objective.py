"""Momentum contrast (MoCo v2): self-supervised pretraining on two views, without labels.

Sources: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020; Chen et al.,
"Improved Baselines with Momentum Contrastive Learning", 2020 (v2: the projector, and stronger augmentation); as a start
for long-tailed recognition Yang & Xu, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning", NeurIPS
2020. The defaults are those of MoCo's public demo on CIFAR.

Deviations:

- The queue has any length; the released one must be a multiple of the batch. ``auto`` keeps it at half the training
  images at most: of the queries then one in eight meets an earlier view of its own image among its negatives, and one
  in two where there are as many keys as images.
- Batch norm tells a pair by the statistics that both of its images share. The release shuffles keys over several GPUs,
  which on one does nothing. Here the shuffled keys go through in parts on one device, and the queries in one. CIFAR's
  demo splits the queries too.
- Weights and queue move after the step, see ``MoCo``. Similarities are float32 also under autocast.

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
    """Cross-entropy that finds, for the query of view 0, its key of view 1 among the keys of other images.

    Encoder and queue move in ``after_step``. That is the same as an update before each pass of the keys, as the source
    has it: the two networks start equal, so that its first update changes nothing.

    Logs ``contrast_accuracy``, the share of queries nearest to their own key. The head is a projector and
    does not predict.

    Args:
        task: the task.
        params: keys of ``MoCoParams``. A batch goes through in fewer ``splits`` where a part would have less than two
            images.

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
        # Strictly nearest, so that networks which map all images to one point score 0 and not 100.
        found = (logits[:, 0] > logits[:, 1:].amax(dim=1)).float().mean()
        return F.cross_entropy(logits, torch.zeros_like(batch.labels)), {"contrast_accuracy": found}

    def after_step(self, model: Classifier, position: Position) -> None:
        self.encoder.update(model)
        self.queue.enqueue(*self._latest)


def moco_logits(q: Tensor, k: Tensor, queue: Tensor, temperature: float) -> Tensor:
    """[q.k, q.queue] / T, of which the first is each query's target.

    Args:
        q, k: (B, dim) unit rows of the two views.
        queue: (K, dim) unit rows.
        temperature: T.

    Returns:
        (B, 1 + K), in the precision of q under autocast too. Keys and queue get no gradient.
    """
    with torch.autocast(q.device.type, enabled=False):
        own = (q * k.detach()).sum(dim=1, keepdim=True)
        return torch.cat([own, q @ queue.detach().T], dim=1) / temperature


def in_shuffled_parts(encoder: nn.Module, x: Tensor, splits: int) -> Tensor:
    """What ``encoder`` makes of the rows of ``x``, in their order, passed in random parts as even as possible.

    There are ``splits`` parts, or fewer of at least two rows each; the shuffle is drawn from torch's global generator.
    """
    order = torch.randperm(len(x), device=x.device)
    parts = max(1, min(splits, len(x) // 2))
    shuffled = torch.cat([encoder(part) for part in x[order].tensor_split(parts)])
    return torch.empty_like(shuffled).index_copy_(0, order, shuffled)
