"""How well a classifier knows each item of one class, and the IP-DPP kernel made of it (Lin & Yuan 2025, section 3).

With p_i the probability of the true class, alpha = 1/n (scale "n", the paper) or 1/n^2 ("n2", the released code), the
kernel has S_ij = alpha p_i p_j off the diagonal and rows that sum to 1. So it is diagonal plus rank one,

    S = diag(d) + u u^T,   d_i = 1 - alpha p_i sum(p),   u = sqrt(alpha) p,

and ``d`` with ``r = u^2 / d`` is all that the samplers need. The information content is -log p, but p alone enters S.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from longtail.core.errors import DataError
from longtail.methods.ipdpp.checks import as_vector, check_choice

SCALES = ("n", "n2")
Q_FLOOR = 1e-12  # a softmax that saturates at p = 1 would make d = 0; below this all items count as equally known


@dataclass(frozen=True, eq=False)
class Information:
    """The IP-DPP kernel of the n items of one class; every array is (n,) float64.

    p: probability of the true class, at most 1 - 1e-12; q: 1 - p, at least 1e-12; d, r: see the module.
    """

    p: np.ndarray
    q: np.ndarray
    d: np.ndarray
    r: np.ndarray

    @classmethod
    def from_probability(cls, probability: ArrayLike, scale: str = "n", label: int | str | None = None) -> Self:
        """From p (n,) in [0, 1], float32 or float64; ``label`` names the class in errors.

        Raises DataError where p is not finite or outside [0, 1], ConfigError for another scale.
        """
        p = as_vector(f"probability{_of_class(label)}", probability)
        _check_all(f"probability{_of_class(label)} must be finite and in [0, 1]", p, (p >= 0) & (p <= 1))
        return cls._from_pair(p, 1.0 - p, scale)

    @classmethod
    def from_log_probability(cls, log_probability: ArrayLike, scale: str = "n", label: int | str | None = None) -> Self:
        """From log p (n,) <= 0; minus infinity is p = 0. Keeps the digits of 1 - p that p itself has lost."""
        log_p = as_vector(f"log_probability{_of_class(label)}", log_probability)
        _check_all(f"log_probability{_of_class(label)} must be a number and at most 0", log_p, log_p <= 0)
        return cls._from_pair(np.exp(log_p), -np.expm1(log_p), scale)

    @property
    def content(self) -> np.ndarray:
        """(n,) float64: -log p in nats, from 1e-12 to 708."""
        p = np.maximum(self.p, np.finfo(np.float64).tiny)
        return -np.where(p < 0.5, np.log(p), np.log1p(-np.minimum(self.q, 0.5)))

    @classmethod
    def _from_pair(cls, p: np.ndarray, q: np.ndarray, scale: str) -> Self:
        check_choice("scale", scale, SCALES)
        n = max(1, len(p))
        p, q = np.minimum(p, 1.0 - Q_FLOOR), np.maximum(q, Q_FLOOR)
        mean_q = q.sum() / n
        d = mean_q + (1.0 - mean_q) * q  # 1 - mean(p) p_i without cancellation
        alpha = 1.0 / n
        if scale == "n2":
            d = (n - 1) / n + d / n
            alpha /= n
        return cls(p, q, d, alpha * p**2 / d)


def ipdpp_kernel(probability: ArrayLike, scale: str = "n") -> np.ndarray:
    """The dense kernel S (n, n) float64 of p (n,): for looking at small classes, no sampler forms it."""
    known = Information.from_probability(probability, scale)
    alpha = 1.0 / max(1, len(known.p)) ** (1 if scale == "n" else 2)
    return np.diag(known.d) + alpha * np.outer(known.p, known.p)


def _of_class(label: int | str | None) -> str:
    return "" if label is None else f" of class {label}"


def _check_all(rule: str, values: np.ndarray, valid: np.ndarray) -> None:
    if not valid.all():
        first = int(np.argmin(valid))
        raise DataError(f"{rule}, got {values[first]} at position {first}")
