"""Cosine: a cosine head that starts from class means and is trained with logit-adjusted loss.

It is the classifier of LIFT (Shi et al., "Long-tail learning with foundation model: heavy fine-tuning hurts", ICML
2024) on a frozen backbone: logits are scale * cos(x, W_c), W starts at the class means of the features, and the loss is
cross-entropy on logits + log prior (Menon et al. 2021), so that the logits themselves are for a uniform prior. SGD with
rate 0.01 to 0.02, momentum 0.9, weight decay 5e-4, batches of 128, 5 to 10 epochs, scale 25.

Deviations, by default:

- The mean of all rows is subtracted before the cosine, so that an offset of the features does not matter. Means are
  those of the rows at unit length.
- scale and epoch are those of the best mean class accuracy on held-out rows. The scales tried are 40, 25, 16 and 10.
  The smaller a training set is, the smaller is the best one.
- The rate is 30 / scale^2, so that the first steps change the logits by as much for every scale. That is 0.048 for 25.

``scale: 25``, ``lr: 0.02`` and ``select: last`` are the published recipe, on centered features.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from longtail.core.head import CenteredCosineHead, unit_rows
from longtail.core.params import Auto, key
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, draw_seed, row_blocks
from longtail.methods.heads.gradient.params import SgdParams, chosen_notes, history_arrays
from longtail.methods.heads.gradient.sgd import HeadSgd
from longtail.methods.heads.standardization import standardization
from longtail.train.device import to_device

if TYPE_CHECKING:
    import torch

    from longtail.methods.heads.gradient.held_out import Labeled
    from longtail.methods.heads.gradient.scorers import CosineScorer
    from longtail.train.checkpointing import CheckpointStore
    from longtail.train.loop import Outcome

SCALES = (40.0, 25.0, 16.0, 10.0)
RATE = 30.0  # over the square of the scale


class Cosine(LikelihoodMixin, HeadClassifier):
    """A cosine head on centered features, trained with logit-adjusted loss, in the dtype of X.

    Args:
        scale: of the cosines, or "auto" to choose it.
        epochs: passes over the rows.
        batch_size: rows per step; "auto" is 128, at most N / 8.
        lr: base rate, or "auto".
        momentum, weight_decay: of SGD.
        select: "last"; "best_val", the first epoch with the highest accuracy on X_val, y_val; "auto", the first with
            the highest mean class accuracy on these or, without them, on held-out rows, which are given back.
        device: a torch device.
        progress: "off", "lines", "bar" or "auto".
        random_state: seed.

    Attributes:
        head_: CenteredCosineHead.
        scale_: the scale in use.
        selected_epoch_: 1-based.
        selected_on_: the rows that chose epoch and scale: "val", "train_slice", or "" if none did.
        history_: lists "epoch", "lr", "loss" (nats) and, with validation rows, "val_accuracy" and "val_macro".
    """

    head_: CenteredCosineHead
    scale_: float
    history_: dict[str, list[Any]]
    selected_epoch_: int
    selected_on_: str

    def __init__(
        self,
        scale: float | str = "auto",
        epochs: int = 10,
        batch_size: int | str = "auto",
        lr: float | str = "auto",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        select: str = "auto",
        device: str = "cpu",
        progress: str = "off",
        random_state: Any = 0,
    ) -> None:
        self.scale = scale
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
        params = self._parameters(CosineParams)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        from longtail.methods.heads.gradient.held_out import Chosen, train_chosen
        from longtail.methods.heads.gradient.row_loss import RowLoss
        from longtail.methods.heads.gradient.scorers import CosineScorer

        sgd = HeadSgd(params, self.device, draw_seed(self.random_state), self.progress, store)
        device, num_classes = sgd.torch_device(), len(self.classes_)
        center = standardization(X)[0]

        def inputs(rows: np.ndarray) -> "torch.Tensor":
            return to_device(unit_rows(rows.astype(X.dtype, copy=False) - center.astype(X.dtype)), device)

        def train(
            scale: float, on: "Labeled", judge: "Labeled | None", epochs: int, part: str
        ) -> "tuple[CosineScorer, Outcome]":
            scorer = CosineScorer(_class_means(on, num_classes), scale)
            log_prior = np.log(np.bincount(on[1]) / len(on[1])).astype(X.dtype)
            outcome = sgd.train(
                scorer,
                *on,
                judge,
                lr=RATE / scale**2 if params.lr == "auto" else params.lr,
                weight_decay=params.weight_decay,
                select="last" if judge is None and params.select == "auto" else params.select,
                epochs=epochs,
                part=part,
                loss=RowLoss(offset=to_device(log_prior, device)),
            )
            return scorer, outcome

        chosen: Chosen[float, CosineScorer] = train_chosen(
            train,
            SCALES if params.scale == "auto" else [params.scale],
            (inputs(X), y),
            None if val is None else (inputs(val[0]), val[1]),
            epochs=params.epochs,
            select=params.select,
            stream=(sgd.seed, "cosine folds"),
        )
        self.scale_, self.selected_on_ = float(chosen.setting), chosen.selected_on
        self.selected_epoch_, self.history_ = chosen.outcome.chosen_epoch, chosen.outcome.columns()
        self.head_ = CenteredCosineHead(chosen.scorer.weight.cpu().numpy(), center, self.scale_)
        return self

    def _block_scores(self, X: np.ndarray) -> np.ndarray:
        return self.head_.scores(X)


def _class_means(rows: "Labeled", num_classes: int) -> "torch.Tensor":
    """(C, D) means of the rows of each class, at unit length. Sums as products, so that they are reproducible."""
    import torch

    features, y = rows
    sums = features.new_zeros((num_classes, features.shape[1]))
    targets = to_device(y, features.device)
    for block in row_blocks(len(y), features.element_size() * num_classes):
        members = torch.nn.functional.one_hot(targets[block], num_classes).to(features.dtype)
        sums += members.T @ features[block]
    return torch.nn.functional.normalize(sums)


@dataclass(frozen=True, kw_only=True)
class CosineParams(SgdParams):
    """A cosine head from class means, trained with logit-adjusted loss."""

    path: ClassVar[str] = "cosine"
    auto_batch_size: ClassVar[int] = 128

    scale: float | Auto = key(
        "auto",
        f"factor of the cosines. auto: {', '.join(f'{scale:g}' for scale in SCALES)}, chosen as the epoch is",
        above=0,
        published="25",
    )
    batch_size: int | Auto = key(
        "auto", "rows per step. auto: 128, at most an eighth of the rows", low=1, published="128"
    )
    lr: float | Auto = key(
        "auto", f"base learning rate. auto: {RATE:g} over the square of the scale", above=0, published="0.01 to 0.02"
    )
    weight_decay: float = key(5e-4, "weight decay", low=0)
    select: Literal["auto", "last", "best_val"] = key(
        "auto",
        "epoch kept. `best_val`: the first of highest accuracy on val. auto: the first of highest mean class accuracy "
        "on val or, without it, on held-out training rows, which are then given back",
        published="last",
    )


HEAD = HeadEntry(
    estimator=Cosine,
    params=CosineParams,
    rank=60,
    notes=lambda head, params: chosen_notes(head.selected_epoch_, head.selected_on_, scale=head.scale_),
    arrays=lambda head, params: history_arrays(head.history_),
)
