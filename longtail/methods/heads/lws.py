"""LWS: learnable weight scaling, one scale per class on a fixed head (Kang et al., ICLR 2020, section 4.2).

logits = s * (x W^T + b). As in the official code, the scale multiplies the bias too (in the paper, only the weight),
and weight decay pulls s toward 0. s starts at 1 and may become negative. Sampler, optimizer and schedule are those of
cRT.

A head's scores of the rows that it was fitted on have larger margins than those of new rows, most of all in small
classes, so scales that are trained on them are wrong. A base head can be fitted again, so by default its scales are
trained on scores of heads that have not seen the row (five folds), and from the head for a uniform prior. The head of a
trained backbone cannot, so there the scales are trained on its own scores, as in the official code.

Deviation: stored features instead of augmented images (see cRT). For a cosine head, s multiplies scale * cos.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from longtail.core.errors import ConfigError
from longtail.core.head import LinearHead, StandardizedHead
from longtail.core.params import Auto, key, only_with
from longtail.methods.heads import HeadEntry
from longtail.methods.heads.base import HeadClassifier, LikelihoodMixin, LinearFormMixin, draw_seed, row_blocks
from longtail.methods.heads.gradient.params import HeadTrainingParams, history_arrays, selection_notes
from longtail.methods.heads.gradient.scorers import ScaleScorer
from longtail.methods.heads.gradient.sgd import HeadSgd
from longtail.train.device import to_device, torch_device

if TYPE_CHECKING:
    import torch

    from longtail.train.checkpointing import CheckpointStore

FLATTEST = 0.01
SCORES_BUDGET = 2 * 2**30  # bytes; larger scores of the fixed head are recomputed per batch instead of kept


class LWS(LikelihoodMixin, LinearFormMixin, HeadClassifier):
    """A fixed head with one trained scale per class.

    Args:
        head: None, a LinearHead, or a (weight, bias) pair. None fits the base head on the rows first.
        trained_on: "held_out" or "fitted", the scores that the scales are trained on; "auto" is "held_out" for a base
            head.
        lr: base rate; "auto" is the inverse of the largest possible curvature of the loss in the scales at the start,
            so that it follows the scale of the scores.
        weight_decay: of SGD, toward s = 0.
        select: "auto" keeps the epoch with the best mean class accuracy on X_val, y_val, the start included, or the
            last one without these. The other arguments are those of CRT. The official configurations use 5 epochs, the
            last one at rate 0.

    Attributes:
        scales_: (C,).
        trained_on_: "held_out" or "fitted".
        linear_head_: the starting head, unchanged.
        weight_, bias_: s W (C, D) and s b (C,), which give the same logits in one head.
        selected_epoch_, selected_on_, history_: as in CRT.
    """

    scales_: np.ndarray
    history_: dict[str, list[Any]]
    trained_on_: str
    selected_epoch_: int
    selected_on_: str

    def __init__(
        self,
        epochs: int = 5,
        batch_size: int | str = "auto",
        lr: float | str = "auto",
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        samples_per_class: int = 4,
        select: str = "auto",
        trained_on: str = "auto",
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
        self.trained_on = trained_on
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
        params = self._parameters(LWSParams)
        seed = draw_seed(self.random_state)
        X, y = self._check_training(X, y)
        val = self._check_validation(X_val, y_val)
        device = torch_device(self.device, "lws")
        start = self._starting_head(self.head, X, y)
        refittable = isinstance(start, StandardizedHead) and start.l2 is not None
        self.trained_on_ = ("held_out" if refittable else "fitted") if self.trained_on == "auto" else self.trained_on
        if self.trained_on_ == "held_out":
            if not refittable:
                raise ConfigError(
                    "lws.trained_on must be fitted or auto with a head that is no base head, got held_out"
                )
            assert isinstance(start, StandardizedHead)
            start = start.with_prior("uniform", np.bincount(y) / len(y))
        rows = _Rows(start, self.trained_on_ == "held_out", X, y, seed, device)
        sgd = HeadSgd(params, self.device, seed, self.progress, store)
        rate = 1 / rows.curvature() if params.lr == "auto" else params.lr
        outcome = sgd.train(
            rows.scorer,
            rows.train,
            y,
            None if val is None else (rows.load(val[0].astype(X.dtype, copy=False)), val[1]),
            lr=rate,
            weight_decay=params.weight_decay,
            select="last" if params.select == "auto" and val is None else params.select,
            judge_start=params.select == "auto" and val is not None,
        )
        self.selected_epoch_, self.selected_on_ = outcome.chosen_epoch, outcome.rule
        self.history_ = outcome.columns()
        self.scales_ = rows.scorer.scales.cpu().numpy()
        weight, bias = start.effective_weight(), start.bias
        scaled_bias = None if bias is None else self.scales_ * bias
        return self._set_linear_form(start, self.scales_[:, None] * weight, scaled_bias)


class _Rows:
    """The training rows on the device, as scores (N, C) of the fixed head or, if those are too large, as its inputs.

    Attributes:
        scorer: the scales, which are to be trained.
        train: (N, C) or (N, D).
    """

    def __init__(
        self, start: LinearHead, held_out: bool, X: np.ndarray, y: np.ndarray, seed: int, device: "torch.device"
    ) -> None:
        self._start, self._y, self._device = start, y, device
        num_classes = len(start.weight)
        scales = to_device(np.ones(num_classes, dtype=X.dtype), device)
        self._keep_scores = held_out or len(X) * num_classes * X.itemsize <= SCORES_BUDGET
        if held_out:
            from longtail.methods.heads.softmax_choice import out_of_fold_scores

            assert isinstance(start, StandardizedHead)
            self.scorer = ScaleScorer(scales)
            self.train = to_device(out_of_fold_scores(X, y, start, seed, device), device)
            return
        weight, bias = start.effective_weight().astype(X.dtype), start.bias
        fixed = None if bias is None else to_device(bias.astype(X.dtype), device)
        self.scorer = (
            ScaleScorer(scales) if self._keep_scores else ScaleScorer(scales, to_device(weight, device), fixed)
        )
        self.train = self.load(X)

    def load(self, X: np.ndarray) -> "torch.Tensor":
        """Rows (M, D) in the form that the scorer takes."""
        if not self._keep_scores:
            return to_device(self._start.inputs(X), self._device)
        scores = self.scorer.scales.new_empty((len(X), len(self.scorer.scales)))
        for rows in row_blocks(len(X), 8 * (X.shape[1] + scores.shape[1])):
            scores[rows] = to_device(self._start.scores(X[rows]).astype(X.dtype, copy=False), self._device)
        return scores

    def curvature(self) -> float:
        """Sum over the classes of mean p (1 - p) z^2 at s = 1, where all classes have equal weight in the mean.

        It is the trace of the Hessian of the loss in the scales, so no curvature is larger at the start. Where nearly
        all rows are right by far, p (1 - p) is nearly 0 there but not elsewhere, so it counts as at least FLATTEST / 4.
        """
        import torch

        share = to_device(1 / np.bincount(self._y)[self._y], self._device).to(self.train.dtype)
        share /= share.sum()
        total = largest = 0.0
        for rows in row_blocks(len(self.train), 3 * self.train.element_size() * len(self.scorer.scales)):
            z = self.scorer.fixed_logits(self.train[rows])
            p = torch.softmax(z, dim=1)
            squares = z * z
            total += float((share[rows] @ (p * (1 - p) * squares)).sum())
            largest += float((share[rows] @ squares).sum()) / 4  # p (1 - p) is at most a quarter
        return max(total, FLATTEST * largest, 1e-6)


@dataclass(frozen=True, kw_only=True)
class LWSParams(HeadTrainingParams):
    """LWS."""

    path: ClassVar[str] = "lws"

    epochs: int = key(5, "passes over the training rows, with a cosine rate", low=1)
    lr: float | Auto = key(
        "auto",
        "base learning rate. auto: follows the scale of the scores; the released rate with `mode: online`",
        above=0,
        published="0.2",
    )
    weight_decay: float = key(5e-4, "weight decay of the scales, toward 0", low=0)
    trained_on: Literal["auto", "held_out", "fitted"] = key(
        "auto",
        "scores that the scales are trained on. `fitted`: those of the head itself, as released; `held_out`: of base "
        "heads that have not seen the row. auto: `held_out` for a base head",
        published="fitted",
        unused=only_with(mode="cached"),
    )


HEAD = HeadEntry(
    estimator=LWS,
    params=LWSParams,
    rank=40,
    notes=lambda head, params: (
        selection_notes(params, head.selected_epoch_, head.selected_on_) | {"trained_on": head.trained_on_}
    ),
    arrays=lambda head, params: history_arrays(head.history_) | {"scales": head.scales_},
)
