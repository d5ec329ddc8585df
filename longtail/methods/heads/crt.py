"""cRT: classifier re-training on class-balanced draws of stored features (Kang et al., ICLR 2020, section 4.2).

A new linear softmax head with PyTorch's default initialization is trained with the class-aware sampler, momentum SGD
and a cosine rate that ends at exactly 0. The defaults are those of the official ImageNet-LT configuration.

Deviations: the features are stored. The official code sends augmented images through a backbone whose batch-norm
statistics keep changing. By default the last epoch is kept; the official code keeps the best one on its val split.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from longtail.core.seeds import generator
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin, LinearHead, draw_seed
from longtail.methods.heads.gradient.params import HeadTrainingParams, history_arrays, selection_notes
from longtail.methods.heads.gradient.scorers import LinearScorer
from longtail.methods.heads.gradient.sgd import ClassBalancedSgd
from longtail.train.device import to_device

if TYPE_CHECKING:
    from longtail.train.checkpointing import CheckpointStore


class CRT(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """A linear head, retrained from scratch on class-balanced draws, in the dtype of X.

    Args:
        epochs: passes over the rows.
        batch_size: rows per step. A value above N becomes N.
        lr: base rate, for batches of 512. Scale the two together.
        momentum, weight_decay: of SGD.
        samples_per_class: rows per class and turn of the sampler.
        select: "last", or "best_val" for the first epoch with the highest accuracy on X_val, y_val.
        device: a torch device.
        progress: "off", "lines", "bar" or "auto".
        random_state: seed.

    Attributes:
        weight_, bias_: (C, D) and (C,).
        linear_head_: the initial values.
        selected_epoch_: 1-based.
        history_: lists "epoch" (1-based), "lr", "loss" (mean over the steps of the epoch, nats) and, with validation
            rows, "val_accuracy" (in [0, 1]).
    """

    history_: dict[str, list[Any]]
    selected_epoch_: int

    def __init__(
        self,
        epochs: int = 10,
        batch_size: int = 512,
        lr: float = 0.2,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        samples_per_class: int = 4,
        select: str = "last",
        device: str = "cpu",
        progress: str = "off",
        random_state: Any = 0,
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
        params = CRTParams(
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
        start = initial_head(len(self.classes_), X.shape[1], seed, X.dtype)
        assert start.bias is not None
        scorer = LinearScorer(to_device(start.weight.copy(), device), to_device(start.bias.copy(), device))
        val_rows = None if val is None else (to_device(val[0].astype(X.dtype, copy=False), device), val[1])
        outcome = sgd.train(scorer, to_device(X, device), y, val_rows)
        self.selected_epoch_ = outcome.chosen_epoch
        self.history_ = outcome.columns()
        return self._set_linear_form(start, scorer.weight.cpu().numpy(), scorer.bias.cpu().numpy())


def initial_head(num_classes: int, num_features: int, seed: int, dtype: DTypeLike) -> LinearHead:
    """A new head like PyTorch's linear layer: W (C, D) and b (C,) uniform in +-1/sqrt(D), from a stream of its own."""
    stream, bound = generator(seed, "crt", "initial head"), num_features**-0.5
    weight = stream.uniform(-bound, bound, (num_classes, num_features)).astype(dtype)
    return LinearHead(weight, stream.uniform(-bound, bound, num_classes).astype(dtype))


@dataclass(frozen=True, kw_only=True)
class CRTParams(HeadTrainingParams):
    """cRT."""

    path: ClassVar[str] = "crt"


HEAD = HeadEntry(
    estimator=CRT,
    params=CRTParams,
    rank=20,
    notes=lambda head, params: selection_notes(params, head.selected_epoch_),
    arrays=lambda head, params: history_arrays(head.history_),
)
