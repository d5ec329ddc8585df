"""The training subset for IP-DPP finetuning, redrawn every few epochs from the current model's predictions.

Source: Lin & Yuan 2025, section 4. The times of re-selection follow the official code. Deviations from that code:

- The draws follow the kernel. The released draws are uniform and the same in every round.
- Each round's draw has its own random stream.
- p is computed without augmentation.
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
    """One draw from N images.

    Attributes:
        selected: (N,) bool.
        inclusion_probability: (N,) float64.
        log_probability: (N,) float64, or None for a uniform draw.
    """

    selected: np.ndarray
    inclusion_probability: np.ndarray
    log_probability: np.ndarray | None


class SubsetSampler:
    """Sampler whose epochs are permutations of the current round's subset.

    Round r is drawn before epoch r * ``every``. The rounds drawn so far are the sampler's entire state.

    Args:
        labels: (N,) int64, every class present.
        k: images per class, in any form that ``longtail.methods.ipdpp.selection.select`` accepts.
        every: epochs per round.
        seed: seeds the draws and the order of the images.
        log_probability: function (model in eval mode, round) -> (N,) float64, log p of each image's own label. None
            draws uniformly.
        options: more keyword arguments for ``select``.
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
        """Number of images in every round."""
        return self._available

    def before_epoch(self, epoch: int, model: "Classifier") -> None:
        """Draw a new round if one starts at this epoch."""
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
        """Return (draws,) int64 positions among the N images, in order, without replacement."""
        members = np.flatnonzero(self.rounds[epoch // self._every].selected)
        order = generator(self._seed, "subset order", epoch).permutation(len(members))
        return members[order[:draws]]

    def state_dict(self) -> "dict[str, Tensor]":
        """Return the rounds: selected (R, N) bool and inclusion_probability (R, N) float64.

        Unless the draws are uniform, log_probability (R, N) float64 is included.
        """
        import torch

        state = {
            "selected": np.stack([r.selected for r in self.rounds]),
            "inclusion_probability": np.stack([r.inclusion_probability for r in self.rounds]),
        }
        if self._log_probability is not None:
            state["log_probability"] = np.stack([np.asarray(r.log_probability) for r in self.rounds])
        return {name: torch.from_numpy(values) for name, values in state.items()}

    def load_state_dict(self, state: "dict[str, Tensor]") -> None:
        """Restore the rounds saved by ``state_dict``."""
        columns = {name: tensor.cpu().numpy() for name, tensor in state.items()}
        selected, inclusion = columns["selected"], columns["inclusion_probability"]
        log_p = columns.get("log_probability", [None] * len(selected))
        self.rounds = [Round(*row) for row in zip(selected, inclusion, log_p, strict=True)]


def label_log_probability(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the log of the softmax probability of each row's own label.

    Args:
        scores: (N, C).
        labels: (N,) int64.

    Returns:
        (N,) float64, at most 0. It stays accurate when p is near 1, so 1 - p can be computed without cancellation.
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
        # log(1 + sum of exp(margin)); factoring out exp(highest) turns the 1 into exp(-highest)
        log_p[start : start + step] = -(highest + np.log1p(others + np.expm1(-highest)))
    return log_p
