"""LWS: learnable weight scaling, one scale per class on a fixed head (Kang et al., ICLR 2020, section 4.2).

logits = s * (x W^T + b). As in the official code, the scale multiplies the bias too (in the paper, only the weight),
and weight decay pulls s toward 0. s starts at 1, which is the joint head, and may become negative. Sampler, optimizer
and rate are those of cRT.

Deviation: stored features instead of augmented images (see cRT). For a cosine head, s multiplies scale * cos.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from longtail.core.head import unit_rows
from longtail.core.params import key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin, draw_seed, row_blocks
from longtail.methods.heads.gradient.params import HeadTrainingParams, history_arrays, selection_notes
from longtail.methods.heads.gradient.scorers import ScaleScorer
from longtail.methods.heads.gradient.sgd import ClassBalancedSgd
from longtail.train.device import to_device

if TYPE_CHECKING:
    import torch

    from longtail.train.checkpointing import CheckpointStore

LOGITS_BUDGET = 2 * 2**30  # bytes; larger fixed logits are recomputed per batch instead of kept


class LWS(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """A fixed head with one trained scale per class.

    Args:
        head: None, a LinearHead, or a (weight, bias) pair. None fits a softmax head on the rows first. The other
            arguments are those of CRT. The official configurations use 5 epochs, the last one at rate 0.

    Attributes:
        scales_: (C,).
        linear_head_: the starting head, unchanged.
        weight_, bias_: s W (C, D) and s b (C,), which give the same logits in one head.
        selected_epoch_, history_: as in CRT.
    """

    scales_: np.ndarray
    history_: dict[str, list[Any]]
    selected_epoch_: int

    def __init__(
        self,
        epochs: int = 5,
        batch_size: int = 512,
        lr: float = 0.2,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        samples_per_class: int = 4,
        select: str = "last",
        device: str = "cpu",
        progress: str = "off",
        random_state: Any = 0,
        head: Any = None,
    ) -> None:
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.samples_per_class = samples_per_class
        self.select = select
        self.device = device
        self.progress = progress
        self.random_state = random_state
        self.head = head

    def fit(
        self,
        X: np.ndarray,
        y: np.ndarray,
        X_val: np.ndarray | None = None,
        y_val: np.ndarray | None = None,
        *,
        store: "CheckpointStore | None" = None,
    ) -> Self:
        """X: (N, D) features; y: (N,) labels. ``store`` keeps checkpoints of unfinished training.

        Raises:
            ConfigError: a value that is not allowed.
            TrainingError: the loss stops being finite.
        """
        params = LWSParams(
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            samples_per_class=self.samples_per_class,
            select=self.select,  # type: ignore[arg-type]
        )
        seed = draw_seed(self.random_state)
        sgd = ClassBalancedSgd(params, self.device, seed, self.progress, store)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        device = sgd.torch_device()
        start = self._starting_head(self.head, X, y)
        weight, bias = start.effective_weight(), start.bias
        scorer = ScaleScorer(
            to_device(np.ones(len(weight), dtype=X.dtype), device),
            to_device(weight.astype(X.dtype), device),
            None if bias is None else to_device(bias.astype(X.dtype), device),
        )
        keep_logits = len(X) * len(weight) * X.itemsize <= LOGITS_BUDGET
        rows = _resident_rows(scorer, X, start.unit_input, keep_logits)
        val_rows = None
        if val is not None:
            X_val = val[0].astype(X.dtype, copy=False)
            val_rows = _resident_rows(scorer, X_val, start.unit_input, keep_logits), val[1]
        if keep_logits:
            scorer = ScaleScorer(scorer.scales)
        outcome = sgd.train(scorer, rows, y, val_rows)
        self.selected_epoch_ = outcome.chosen_epoch
        self.history_ = outcome.columns()
        self.scales_ = scorer.scales.cpu().numpy()
        scaled_bias = None if bias is None else self.scales_ * bias
        return self._set_linear_form(start, self.scales_[:, None] * weight, scaled_bias)


def _resident_rows(scorer: ScaleScorer, X: np.ndarray, unit_input: bool, keep_logits: bool) -> "torch.Tensor":
    """The rows for the scorer, on its device: fixed logits (N, C), or features (N, D)."""
    device = scorer.scales.device
    if not keep_logits:
        return to_device(unit_rows(X) if unit_input else X, device)
    fixed_logits = scorer.scales.new_empty((len(X), len(scorer.scales)))
    for rows in row_blocks(len(X), 8 * (X.shape[1] + len(scorer.scales))):
        block = unit_rows(X[rows]) if unit_input else X[rows]
        fixed_logits[rows] = scorer.fixed_logits(to_device(block, device))
    return fixed_logits


@dataclass(frozen=True, kw_only=True)
class LWSParams(HeadTrainingParams):
    """LWS."""

    path: ClassVar[str] = "lws"

    epochs: int = key(5, "passes over the training rows, with a cosine rate", low=1)


HEAD = HeadEntry(
    estimator=LWS,
    params=LWSParams,
    rank=40,
    notes=lambda head, params: selection_notes(params, head.selected_epoch_),
    arrays=lambda head, params: history_arrays(head.history_) | {"scales": head.scales_},
)
