"""Parametric contrastive learning (PaCo): the class weights of a linear head are learned centers among the keys.

Source: Cui, Zhong, Liu, Yu and Jia, "Parametric Contrastive Learning", ICCV 2021, and its official code. The defaults
are its settings for CIFAR-100-LT, except the temperature, which is the one for its other datasets (CIFAR-100-LT: 0.05).

Deviations:

- An empty slot of the queue is not a positive and not in the denominator. The released queue starts with random vectors
  and random labels, normalized along the wrong axis, so its first K / B steps contrast with noise.
- The queue may have any length. In the release, it must be a multiple of the batch size.
- The keys of a batch share their batch-norm statistics. The release shuffles them among its processes, which has no
  effect with a single process.
- The momentum encoder and the queue are updated after the step, see ``PaCo``.
- The log prior is a buffer on the device of the objective. The release needs a GPU.

B images, C classes, K slots of the queue, F = [q; k; queue] the rows that an anchor is compared with.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from longtail.methods.objectives.contrast import EMPTY, KeyQueue, MomentumEncoder, Projector, unit_rows
from longtail.methods.objectives.paco import OBJECTIVE, PaCoParams
from longtail.models.classifier import Classifier
from longtail.train.batches import Batch
from longtail.train.objective import Objective, Position, TaskInfo

PRIOR_FLOOR = 1e-9  # added to the share of each class before its logarithm


class PaCo(Objective):
    """``paco_loss`` of the queries of view 0, the keys of view 1 and the queue. The head reads the features of view 0.

    The momentum encoder and the queue are updated in ``after_step``. The source updates before each pass of the keys.
    That is the same, because the two networks start equal and its first update changes nothing.

    Logs ``train_accuracy`` in [0, 1], from the logits without the prior, which are the ones that predict.

    Args:
        task: the task.
        params: keys of ``PaCoParams``. With fewer training images than ``queue``, it holds several views of each image.

    Raises:
        ConfigError: a value that is not allowed.
    """

    views = OBJECTIVE.views
    encoder: MomentumEncoder

    def __init__(self, task: TaskInfo, **params: Any) -> None:
        super().__init__(task)
        self.params = own = PaCoParams(**params)
        features = task.num_features
        self.projector = Projector(features, hidden=features, dim=own.dim, batch_norm=True)
        self.queue = KeyQueue(own.queue, own.dim)
        self.log_prior: Tensor
        self.register_buffer("log_prior", floored_log_prior(task.counts))

    def attach(self, model: Classifier) -> None:
        self.encoder = MomentumEncoder(self._embedding(model), self.params.momentum)

    def loss(self, model: Classifier, batch: Batch, position: Position) -> tuple[Tensor, dict[str, Tensor]]:
        features = model.forward_features(batch.views[0])
        logits = model.head(features).float()
        q = unit_rows(self.projector(features))
        self.encoder.match_mode(self._embedding(model))
        k = unit_rows(self.encoder(batch.views[1]))
        self._latest = k, batch.labels
        losses = paco_loss(
            logits,
            q,
            k,
            self.queue.keys,
            batch.labels,
            self.queue.labels,
            self.log_prior,
            temperature=self.params.temperature,
            alpha=self.params.alpha,
            beta=self.params.beta,
            gamma=self.params.gamma,
        )
        correct = (logits.detach().argmax(dim=1) == batch.labels).float().mean()
        return losses.mean(), {"train_accuracy": correct}

    def after_step(self, model: Classifier, position: Position) -> None:
        self.encoder.update(self._embedding(model))
        self.queue.enqueue(*self._latest)

    def _embedding(self, model: Classifier) -> nn.Module:
        return nn.Sequential(model.backbone, self.projector)


def paco_loss(
    logits: Tensor,
    q: Tensor,
    k: Tensor,
    queue: Tensor,
    labels: Tensor,
    queue_labels: Tensor,
    log_prior: Tensor,
    temperature: float,
    alpha: float,
    beta: float,
    gamma: float,
) -> Tensor:
    """The loss of each anchor i. Its positives P_i are the other rows of F with its label, including its own key.

    With z = logits + log_prior and s_ij = q_i . F_j / T:

        log Z_i = log(sum_c exp(z_ic) + gamma * sum_{j != i} exp(s_ij))
        L_i = -(beta * (z_{i,y_i} - log Z_i) + alpha * sum_{j in P_i} (s_ij - log Z_i)) / (beta + alpha * |P_i|)

    Without alpha and gamma this is the cross-entropy of z.

    Args:
        logits: (B, C); B >= 1.
        q, k: (B, dim) unit rows of the two views.
        queue: (K, dim) unit rows; K >= 0.
        labels, queue_labels: (B,) and (K,) integers. Slots of the queue labeled -1 do not count.
        log_prior: (C,).
        temperature: T > 0.
        alpha, gamma: at least 0.
        beta: above 0.

    Returns:
        (B,), float64 for float64 queries and float32 for all others, also under autocast. Keys and queue get no
        gradient.
    """
    assert len(q) == len(k) == len(labels) == len(logits) > 0 and len(queue) == len(queue_labels)
    dtype = torch.promote_types(q.dtype, torch.float32)
    labels_of_rows = torch.cat([labels, labels, queue_labels])
    with torch.autocast(q.device.type, enabled=False):
        queries = q.to(dtype)
        rows = torch.cat([queries, k.detach().to(dtype), queue.detach().to(dtype)])
        s = queries @ rows.T / temperature
        z = logits.to(dtype) + log_prior.to(dtype)
        itself = torch.eye(*s.shape, dtype=torch.bool, device=s.device)
        positive = (labels[:, None] == labels_of_rows) & ~itself
        log_gamma = math.log(gamma) if gamma > 0 else -math.inf
        met = s.masked_fill(itself | (labels_of_rows == EMPTY), -math.inf) + log_gamma
        log_z = torch.cat([z, met], dim=1).logsumexp(dim=1)
        number = positive.sum(dim=1, dtype=dtype)
        head_term = z.gather(1, labels[:, None])[:, 0] - log_z
        positive_term = s.masked_fill(~positive, 0).sum(dim=1) - number * log_z
        return -(beta * head_term + alpha * positive_term) / (beta + alpha * number)


def floored_log_prior(counts: np.ndarray) -> Tensor:
    """(C,) float32: the logarithm of each class's share plus 1e-9, as released."""
    share = np.asarray(counts, np.float64) / np.sum(counts)
    return torch.from_numpy(np.log(share + PRIOR_FLOOR)).float()
