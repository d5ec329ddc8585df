"""The training subset of IP-DPP finetuning: drawn again every few epochs by what the model then says of each image.

Source: Lin & Yuan 2025, section 4, and the official code for the moments of re-selection. Deviations from the code: the
draws follow the kernel (the released ones are uniform and the same in every round), a round's draw has a random stream
of its own, and p is computed without augmentation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from longtail.core.seeds import generator
from longtail.methods.ipdpp.selection import Selection, Size, select

if TYPE_CHECKING:
    from torch import Tensor

    from longtail.models.classifier import Classifier

LogProbability = Callable[["Classifier", int], np.ndarray]


@dataclass(frozen=True, eq=False)
class Round:
    """One draw among N images: selected (N,) bool, inclusion_probability (N,) float64, log_probability (N,) float64 or
    None where the draw is uniform."""

    selected: np.ndarray
    inclusion_probability: np.ndarray
    log_probability: np.ndarray | None


class SubsetSampler:
    """Epochs that are permutations of the subset of the current round.

    Round r is drawn before epoch r * every. The rounds so far are the whole state.

    Args:
        labels: (N,) int64, every class present.
        k: images a class, as ``longtail.methods.ipdpp.selection.select`` takes it.
        every: epochs of a round.
        seed: of the draws and of the order of images.
        log_probability: (model in eval mode, round) -> (N,) float64, log p of each image's own label; None draws
            uniformly.
        options: further arguments of ``select``.
    """

    def __init__(
        self,
        labels: np.ndarray,
        k: Size,
        *,
        every: int,
        seed: int,
        log_probability: LogProbability | None = None,
        options: dict[str, Any] | None = None,
    ) -> None:
        self._labels, self._k, self._every, self._seed = labels, k, every, seed
        self._log_probability = log_probability
        self._options = options or {}
        kept = select(labels, k, sampler="uniform").kept
        self._available = sum(kept.values())
        self.rounds: list[Round] = []

    @property
    def available(self) -> int:
        """Images of every round."""
        return self._available

    def before_epoch(self, epoch: int, model: "Classifier") -> None:
        """Draw a round, if this epoch begins one."""
        number, within = divmod(epoch, self._every)
        if within:
            return
        assert number == len(self.rounds), f"round {number} after {len(self.rounds)} rounds"
        log_p = None if self._log_probability is None else self._log_probability(model, number)
        drawn = self._draw(number, log_p)
        selected = np.zeros(len(self._labels), dtype=bool)
        selected[drawn.indices] = True
        self.rounds.append(Round(selected, drawn.inclusion_probability, log_p))

    def _draw(self, number: int, log_p: np.ndarray | None) -> Selection:
        if log_p is None:
            return select(self._labels, self._k, seed=self._seed, round=number, sampler="uniform")
        return select(self._labels, self._k, seed=self._seed, round=number, log_probability=log_p, **self._options)

    def epoch(self, epoch: int, draws: int) -> np.ndarray:
        """(draws,) int64 positions among the N images, in order, without replacement."""
        members = np.flatnonzero(self.rounds[epoch // self._every].selected)
        order = generator(self._seed, "subset order", epoch).permutation(len(members))
        return members[order[:draws]]

    def state_dict(self) -> "dict[str, Tensor]":
        """selected (R, N) bool, inclusion_probability (R, N) and, unless uniform, log_probability (R, N) float64."""
        import torch

        state = {
            "selected": np.stack([r.selected for r in self.rounds]),
            "inclusion_probability": np.stack([r.inclusion_probability for r in self.rounds]),
        }
        if self._log_probability is not None:
            state["log_probability"] = np.stack([np.asarray(r.log_probability) for r in self.rounds])
        return {name: torch.from_numpy(values) for name, values in state.items()}

    def load_state_dict(self, state: "dict[str, Tensor]") -> None:
        """Take over the rounds of ``state_dict``."""
        columns = {name: tensor.cpu().numpy() for name, tensor in state.items()}
        selected, inclusion = columns["selected"], columns["inclusion_probability"]
        log_p = columns.get("log_probability", [None] * len(selected))
        self.rounds = [Round(*row) for row in zip(selected, inclusion, log_p, strict=True)]


def label_log_probability(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Log of the softmax probability of each row's own label.

    scores: (N, C); labels: (N,) int64. Returns (N,) float64, at most 0, exact also where p is near 1, so that 1 - p
    does not cancel.
    """
    log_p = np.empty(len(labels))
    step = max(1, 2**23 // max(1, scores.shape[1]))
    for start in range(0, len(labels), step):
        block = scores[start : start + step].astype(np.float64)
        rows = np.arange(len(block))
        own = labels[start : start + step]
        margin = block - block[rows, own][:, None]
        margin[rows, own] = -np.inf
        highest = np.maximum(margin.max(axis=1), 0.0)
        others = np.exp(margin - highest[:, None]).sum(axis=1)
        # log(1 + sum of exp(margin)), whose 1 is exp(-highest) once the highest is taken out
        log_p[start : start + step] = -(highest + np.log1p(others + np.expm1(-highest)))
    return log_p
