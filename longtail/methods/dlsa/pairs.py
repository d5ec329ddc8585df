"""Class-uniform pairs: two different classes, then a row of each, all drawn on the device."""

import torch
from torch import Tensor

from longtail.core.errors import DataError


class PairSampler:
    """Pairs of rows of different classes.

    labels: (N,) int64 on any device, with at least two different values.
    """

    def __init__(self, labels: Tensor) -> None:
        self._rows = torch.argsort(labels, stable=True)
        classes, self._counts = torch.unique(labels, return_counts=True)
        if len(classes) < 2:
            raise DataError("pairs of different classes need at least two classes")
        self._starts = self._counts.cumsum(0) - self._counts

    def draw(self, seed: int, pairs: int) -> tuple[Tensor, Tensor]:
        """Positions (pairs,) of the positive and of the negative rows; with replacement, a function of the seed."""
        device, present = self._rows.device, len(self._counts)
        source = torch.Generator(device).manual_seed(seed)
        positive = torch.randint(present, (pairs,), generator=source, device=device)
        negative = (positive + torch.randint(1, present, (pairs,), generator=source, device=device)) % present
        return self._inside(positive, source), self._inside(negative, source)

    def _inside(self, classes: Tensor, source: torch.Generator) -> Tensor:
        counts = self._counts[classes]
        share = torch.rand(len(classes), generator=source, device=classes.device, dtype=torch.float64)
        place = torch.minimum((share * counts).long(), counts - 1)
        return self._rows[self._starts[classes] + place]
