"""cRT: classifier re-training on class-balanced draws of stored features (Kang et al., ICLR 2020, section 4.2).

A new linear softmax head with PyTorch's default initialization is trained with the class-aware sampler, momentum SGD
and a cosine rate that ends at exactly 0.

With ``lr`` as a number, this is the released procedure: on the features as they are, with weight decay 5e-4. The
released ImageNet-LT configuration has rate 0.2 for batches of 512. That rate is right for one scale of the features
only. So by default the features are standardized, the rate is 0.5 over the largest variance along any direction, and
weight decay and epoch are those of the best mean class accuracy on held-out rows.

Deviations: the features are stored. The official code sends augmented images through a backbone whose batch-norm
statistics keep changing. With a numeric rate, the last epoch is kept by default; the official code keeps the best one
on its val split.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import DTypeLike

from longtail.core.params import Auto, key
from longtail.core.seeds import generator
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin, LinearHead, draw_seed
from longtail.methods.heads.gradient.params import HeadTrainingParams, history_arrays, selection_notes
from longtail.methods.heads.gradient.sgd import HeadSgd

if TYPE_CHECKING:
    from longtail.train.checkpointing import CheckpointStore

DECAYS = (0.3, 0.1, 0.03, 0.01)
DECAY_WITHOUT_SELECTION = 0.1
RELATIVE_RATE = 0.5


class CRT(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """A linear head, retrained from scratch on class-balanced draws, in the dtype of X.

    Args:
        epochs: passes over the rows.
        batch_size: rows per step. A value above N becomes N; "auto" is 512, at most N / 8.
        lr: base rate. A number is for the features as they are, "auto" standardizes them.
        momentum: of SGD.
        weight_decay: of SGD. "auto" chooses it on held-out rows or, with a numeric rate, is 5e-4.
        samples_per_class: rows per class and turn of the sampler.
        select: "last"; "best_val", the first epoch with the highest accuracy on X_val, y_val; "auto", the first with
            the highest mean class accuracy on X_val, y_val. Without these and with rate "auto", a fifth of the rows is
            held out to choose weight decay and epoch, and given back: the head is then trained on all rows for that
            many epochs.
        device: a torch device.
        progress: "off", "lines", "bar" or "auto".
        random_state: seed.

    Attributes:
        weight_, bias_: (C, D) and (C,).
        linear_head_: the initial values.
        weight_decay_: the weight decay in use.
        selected_epoch_: 1-based.
        selected_on_: the rows that chose epoch and weight decay: "val", "train_slice", or "" if none did.
        history_: lists "epoch" (1-based), "lr", "loss" (mean over the steps of the epoch, nats) and, with validation
            rows, "val_accuracy" and, unless select is "best_val", "val_macro" (in [0, 1]).
    """

    history_: dict[str, list[Any]]
    weight_decay_: float
    selected_epoch_: int
    selected_on_: str

    def __init__(
        self,
        epochs: int = 10,
        batch_size: int | str = "auto",
        lr: float | str = "auto",
        momentum: float = 0.9,
        weight_decay: float | str = "auto",
        samples_per_class: int = 4,
        select: str = "auto",
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
        params = self._parameters(CRTParams)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        from longtail.methods.heads.gradient.linear import train_linear

        seed, released = draw_seed(self.random_state), params.lr != "auto"
        decays = (params.released_weight_decay,) if released or params.weight_decay != "auto" else DECAYS
        if released and params.select == "auto" and val is None:
            params = replace(params, select="last")
        start, chosen = train_linear(
            HeadSgd(params, self.device, seed, self.progress, store),
            X,
            y,
            val,
            standardize=not released,
            relative_rate=RELATIVE_RATE,
            settings=decays,
            weight_decay=float,
            initial=initial_head(len(self.classes_), X.shape[1], seed, X.dtype),
            otherwise=DECAY_WITHOUT_SELECTION if len(decays) > 1 else None,
            mildest=False,
        )
        self.weight_decay_, self.selected_on_ = chosen.setting, chosen.selected_on
        self.selected_epoch_ = chosen.outcome.chosen_epoch
        self.history_ = chosen.outcome.columns()
        return self._set_linear_form(start, *chosen.scorer.arrays())


def initial_head(num_classes: int, num_features: int, seed: int, dtype: DTypeLike) -> LinearHead:
    """A new head like PyTorch's linear layer: W (C, D) and b (C,) uniform in +-1/sqrt(D), from a stream of its own."""
    stream, bound = generator(seed, "crt", "initial head"), num_features**-0.5
    weight = stream.uniform(-bound, bound, (num_classes, num_features)).astype(dtype)
    return LinearHead(weight, stream.uniform(-bound, bound, num_classes).astype(dtype))


@dataclass(frozen=True, kw_only=True)
class CRTParams(HeadTrainingParams):
    """cRT. With a numeric `lr`, the released procedure on the features as they are."""

    path: ClassVar[str] = "crt"

    lr: float | Auto = key(
        "auto",
        "base learning rate. A number: the released procedure, on the features as they are. auto: the features are "
        "standardized, and the rate is 0.5 over their largest variance along any direction; with `mode: online`, the "
        "released rate on the features as they are",
        above=0,
        published="0.2",
    )
    weight_decay: float | Auto = key(
        "auto",
        "weight decay. auto: chosen with the epoch by mean class accuracy on val or, without it, on held-out training "
        "rows, which are then given back; 5e-4 with a numeric `lr` or `mode: online`",
        low=0,
        published="5e-4",
    )


HEAD = HeadEntry(
    estimator=CRT,
    params=CRTParams,
    rank=20,
    notes=lambda head, params: (
        selection_notes(params, head.selected_epoch_, head.selected_on_) | {"weight_decay": head.weight_decay_}
    ),
    arrays=lambda head, params: history_arrays(head.history_),
)
