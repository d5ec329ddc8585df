"""LOS: a linear head trained with label over-smoothing (ICLR 2025, "Rethinking classifier re-training in long-tailed
recognition: label over-smooth can balance").

The targets are 1 - s + s / C for the class of a row and s / C for the others, with s = 0.98. So the head learns tiny
logits of equal size, whatever the class counts, and is close to a regression on the labels.

The published recipe trains on all rows alike, with rate 5e-4 for batches of 64, 20 epochs, no weight decay, on the
features as they are. That balances the classes only where a head can fit every row, as on features of a backbone that
was trained on these rows. A head on the features of a backbone that was not cannot: the published targets then give the
ranking of plain cross-entropy, and most rows of small classes are lost (macro 36 instead of 53 on CIFAR-100-LT). So by
default

- features are standardized, and the rate is 0.5 over their largest variance along any direction;
- rows weigh inversely to the size of their class;
- the epoch is that of the best mean class accuracy on held-out rows.

``features: raw``, ``class_weights: none``, ``lr: 5e-4`` and ``select: last`` are the published recipe.

Deviations: weights start at zero. The loss is convex, so that the start matters little.

On plankton the default stays 2 to 3 points of macro accuracy below the base head with logit adjustment (docs/heads.md).
The reason is the weights: with large ones, the head fits the few rows of small classes.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from longtail.core.params import Auto, key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LinearFormMixin, draw_seed
from longtail.methods.heads.gradient.params import SgdParams, chosen_notes, history_arrays
from longtail.methods.heads.gradient.sgd import HeadSgd

if TYPE_CHECKING:
    from longtail.train.checkpointing import CheckpointStore

RELATIVE_RATE = 0.5


class LOS(LinearFormMixin, HeadClassifier):
    """A linear head trained with label over-smoothing, in the dtype of X.

    It offers no probabilities: those of the smoothed targets are nearly uniform.

    Args:
        smoothing: s, at least 0 and below 1.
        class_weights: "inverse" to the class size, or "none".
        features: "standardized" or "raw".
        epochs: passes over the rows.
        batch_size: rows per step; "auto" is 64, at most N / 8.
        lr: base rate, or "auto".
        momentum, weight_decay: of SGD.
        select: "last"; "best_val", the first epoch with the highest accuracy on X_val, y_val; "auto", the first with
            the highest mean class accuracy on these or, without them, on held-out rows, which are given back.
        device: a torch device.
        progress: "off", "lines", "bar" or "auto".
        random_state: seed.

    Attributes:
        selected_epoch_: 1-based.
        selected_on_: the rows that chose it: "val", "train_slice", or "" if none did.
        history_: lists "epoch", "lr", "loss" (nats) and, with validation rows, "val_accuracy" and "val_macro".
    """

    history_: dict[str, list[Any]]
    selected_epoch_: int
    selected_on_: str

    def __init__(
        self,
        smoothing: float = 0.98,
        class_weights: str = "inverse",
        features: str = "standardized",
        epochs: int = 20,
        batch_size: int | str = "auto",
        lr: float | str = "auto",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        select: str = "auto",
        device: str = "cpu",
        progress: str = "off",
        random_state: Any = 0,
    ) -> None:
        self.smoothing = smoothing
        self.class_weights = class_weights
        self.features = features
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.momentum = momentum
        self.weight_decay = weight_decay
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
        params = self._parameters(LOSParams)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        from longtail.methods.heads.gradient.linear import train_linear

        start, chosen = train_linear(
            HeadSgd(params, self.device, draw_seed(self.random_state), self.progress, store),
            X,
            y,
            val,
            standardize=params.features == "standardized",
            relative_rate=RELATIVE_RATE,
            weight_decay=lambda _: params.weight_decay,
            settings=[None],
            smoothing=params.smoothing,
            class_weights=inverse_counts if params.class_weights == "inverse" else None,
        )
        self.selected_epoch_, self.selected_on_ = chosen.outcome.chosen_epoch, chosen.selected_on
        self.history_ = chosen.outcome.columns()
        return self._set_linear_form(start, *chosen.scorer.arrays())


def inverse_counts(counts: np.ndarray) -> np.ndarray:
    """(C,): N / (C n_c). All classes weigh the same, and the mean over the rows is 1."""
    return counts.sum() / (len(counts) * counts)


@dataclass(frozen=True, kw_only=True)
class LOSParams(SgdParams):
    """Label over-smoothing. It learns from all rows, shuffled."""

    path: ClassVar[str] = "los"
    auto_batch_size: ClassVar[int] = 64

    smoothing: float = key(0.98, "share s of the targets that is spread over all classes", low=0, below=1)
    class_weights: Literal["inverse", "none"] = key(
        "inverse", "weight of a row in the loss: `inverse` to the size of its class, or `none`", published="none"
    )
    features: Literal["standardized", "raw"] = key(
        "standardized", "`standardized` to mean 0 and standard deviation 1, or `raw`, as they are", published="raw"
    )
    epochs: int = key(20, "passes over the training rows, with a cosine rate", low=1)
    batch_size: int | Auto = key("auto", "rows per step. auto: 64, at most an eighth of the rows", low=1)
    lr: float | Auto = key(
        "auto",
        f"base learning rate. auto: {RELATIVE_RATE:g} over the largest variance of the features along any direction",
        above=0,
        published="5e-4",
    )
    weight_decay: float = key(0.0, "weight decay", low=0)
    select: Literal["auto", "last", "best_val"] = key(
        "auto",
        "epoch kept. `best_val`: the first of highest accuracy on val. auto: the first of highest mean class accuracy "
        "on val or, without it, on held-out training rows, which are then given back",
        published="last",
    )


HEAD = HeadEntry(
    estimator=LOS,
    params=LOSParams,
    rank=62,
    likelihood=False,
    notes=lambda head, params: chosen_notes(head.selected_epoch_, head.selected_on_),
    arrays=lambda head, params: history_arrays(head.history_),
)
