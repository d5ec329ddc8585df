"""MaxNorm: a linear head whose weight rows have a largest norm (weight balancing, Alshammari et al., CVPR 2022).

It is the second stage of the paper: class-balanced loss (Cui et al., CVPR 2019; weights by the effective number of a
class), weight decay, and after every step a projection of each class's weight row onto the ball of radius ``cap``. The
rows of large classes, which would grow, meet the cap, and those of small ones can catch up.

The published runs train 10 epochs on the features as they are, from the head of stage 1, with rate, weight decay and
cap tuned per dataset; later work uses a cap of 0.1. Such numbers are right for one scale of the features. So by default
features are standardized, the rate is 0.2 over their largest variance along any direction, and cap and epoch are those
of the best mean class accuracy on held-out rows. The caps tried are 20, 14 and 10 over the root of D, which is the
typical length of a row. ``features: raw`` with numbers for ``lr``, ``cap`` and ``weight_decay``, and ``select: last``,
are a published recipe.

Deviations: weights start at zero, which is a point better on CIFAR-100-LT than the stage-1 head. The class weights have
mean 1 over all rows; not over each batch, where a small class would lose weight.

On pretrained features the default stays about 2 points of macro accuracy below the base head with logit adjustment
(docs/heads.md). The reason is the class-balanced loss: large weights on the few rows of small classes make the head fit
these rows. Logit adjustment weighs all rows alike and moves the biases only.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from longtail.core.params import Auto, key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin, draw_seed
from longtail.methods.heads.gradient.params import SgdParams, chosen_notes, history_arrays
from longtail.methods.heads.gradient.sgd import HeadSgd

if TYPE_CHECKING:
    from longtail.train.checkpointing import CheckpointStore

RELATIVE_RATE = 0.2
CAPS = (20.0, 14.0, 10.0)  # over the root of D


class MaxNorm(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """A linear head with weight rows of bounded norm, in the dtype of X.

    Args:
        cap: largest norm of a weight row, or "auto" to choose it.
        beta: of the class-balanced loss, whose class weights are proportional to (1 - beta) / (1 - beta^n_c).
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
        cap_: the cap in use.
        selected_epoch_: 1-based.
        selected_on_: the rows that chose epoch and cap: "val", "train_slice", or "" if none did.
        history_: lists "epoch", "lr", "loss" (nats) and, with validation rows, "val_accuracy" and "val_macro".
    """

    cap_: float
    history_: dict[str, list[Any]]
    selected_epoch_: int
    selected_on_: str

    def __init__(
        self,
        cap: float | str = "auto",
        beta: float = 0.9999,
        features: str = "standardized",
        epochs: int = 10,
        batch_size: int | str = "auto",
        lr: float | str = "auto",
        momentum: float = 0.9,
        weight_decay: float = 0.01,
        select: str = "auto",
        device: str = "cpu",
        progress: str = "off",
        random_state: Any = 0,
    ) -> None:
        self.cap = cap
        self.beta = beta
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
        params = self._parameters(MaxNormParams)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        from longtail.methods.heads.gradient.linear import train_linear

        caps = [cap / X.shape[1] ** 0.5 for cap in CAPS] if params.cap == "auto" else [params.cap]
        start, chosen = train_linear(
            HeadSgd(params, self.device, draw_seed(self.random_state), self.progress, store),
            X,
            y,
            val,
            standardize=params.features == "standardized",
            relative_rate=RELATIVE_RATE,
            weight_decay=lambda _: params.weight_decay,
            settings=caps,
            class_weights=lambda counts: effective_weights(counts, params.beta),
            cap=float,
        )
        self.cap_ = float(chosen.setting)
        self.selected_epoch_, self.selected_on_ = chosen.outcome.chosen_epoch, chosen.selected_on
        self.history_ = chosen.outcome.columns()
        return self._set_linear_form(start, *chosen.scorer.arrays())


def effective_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """(C,): proportional to 1 / (1 - beta^n_c), so that the mean over the rows is 1. A beta of 0 weighs all alike."""
    weights = 1 / -np.expm1(counts * np.log(beta)) if beta else np.ones(len(counts))
    return weights * counts.sum() / (weights @ counts)


@dataclass(frozen=True, kw_only=True)
class MaxNormParams(SgdParams):
    """Weight balancing: a head with a cap on the norm of each weight row."""

    path: ClassVar[str] = "max_norm"
    auto_batch_size: ClassVar[int] = 64

    cap: float | Auto = key(
        "auto",
        f"largest norm of a weight row. auto: {', '.join(f'{cap:g}' for cap in CAPS)} over the root of D, chosen as "
        "the epoch is",
        above=0,
        published="0.1",
    )
    beta: float = key(0.9999, "beta of the class-balanced loss; 0 weighs all rows alike", low=0, below=1)
    features: Literal["standardized", "raw"] = key(
        "standardized", "`standardized` to mean 0 and standard deviation 1, or `raw`, as they are", published="raw"
    )
    epochs: int = key(10, "passes over the training rows, with a cosine rate", low=1)
    batch_size: int | Auto = key("auto", "rows per step. auto: 64, at most an eighth of the rows", low=1)
    lr: float | Auto = key(
        "auto",
        f"base learning rate. auto: {RELATIVE_RATE:g} over the largest variance of the features along any direction",
        above=0,
        published="tuned",
    )
    weight_decay: float = key(0.01, "weight decay of weights and bias", low=0, published="tuned")
    select: Literal["auto", "last", "best_val"] = key(
        "auto",
        "epoch kept. `best_val`: the first of highest accuracy on val. auto: the first of highest mean class accuracy "
        "on val or, without it, on held-out training rows, which are then given back",
        published="last",
    )


HEAD = HeadEntry(
    estimator=MaxNorm,
    params=MaxNormParams,
    rank=64,
    notes=lambda head, params: chosen_notes(head.selected_epoch_, head.selected_on_, cap=head.cap_),
    arrays=lambda head, params: history_arrays(head.history_),
)
