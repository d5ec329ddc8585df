"""A classifier's confidence in each item of one class, and the IP-DPP kernel built from it.

Source: Lin & Yuan 2025, section 3.

Let p_i be the probability of item i's true class. Let alpha be 1/n (scale "n", the paper) or 1/n^2 (scale "n2", the
released code). The kernel has S_ij = alpha p_i p_j off the diagonal, and each row sums to 1. It is therefore a diagonal
matrix plus a rank-one matrix:

    S = diag(d) + u u^T,   d_i = 1 - alpha p_i sum(p),   u = sqrt(alpha) p.

The samplers need only ``d`` and ``r = u^2 / d``. An item's information content is -log p, but S depends on p itself.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from longtail.core.errors import DataError
from longtail.methods.ipdpp.checks import as_vector, check_choice

SCALES = ("n", "n2")
Q_FLOOR = 1e-12  # smallest 1 - p: a softmax that saturates at p = 1 would make d = 0


@dataclass(frozen=True, eq=False)
class Information:
    """The IP-DPP kernel for the n items of one class. All arrays are (n,) float64.

    Attributes:
        p: probability of the true class, at most 1 - 1e-12.
        q: 1 - p, at least 1e-12.
        d, r: the kernel, see the module docstring.
    """

    p: np.ndarray
    q: np.ndarray
    d: np.ndarray
    r: np.ndarray

    @classmethod
    def from_probability(cls, probability: ArrayLike, scale: str = "n", label: int | str | None = None) -> Self:
        """Build from p (n,) in [0, 1], float32 or float64. ``label`` is the class name used in errors.

        Raises:
            DataError: p is not finite or is outside [0, 1].
            ConfigError: an unknown ``scale``.
        """
        p = as_vector(f"probability{_class_suffix(label)}", probability)
        _check_all(f"probability{_class_suffix(label)} must be finite and in [0, 1]", p, (p >= 0) & (p <= 1))
        return cls._from_pair(p, 1.0 - p, scale)

    @classmethod
    def from_log_probability(cls, log_probability: ArrayLike, scale: str = "n", label: int | str | None = None) -> Self:
        """Build from log p (n,) <= 0, where minus infinity means p = 0.

        This keeps the digits of 1 - p that are lost when p itself is rounded.

        Raises:
            DataError: log p is NaN or above 0.
            ConfigError: an unknown ``scale``.
        """
        log_p = as_vector(f"log_probability{_class_suffix(label)}", log_probability)
        _check_all(f"log_probability{_class_suffix(label)} must be at most 0 and not NaN", log_p, log_p <= 0)
        return cls._from_pair(np.exp(log_p), -np.expm1(log_p), scale)

    @property
    def content(self) -> np.ndarray:
        """Return -log p, (n,) float64 in nats, from 1e-12 to 708."""
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
    """Return the dense kernel S (n, n) float64 of p (n,), for inspecting small classes. No sampler builds it."""
    information = Information.from_probability(probability, scale)
    alpha = 1.0 / max(1, len(information.p)) ** (1 if scale == "n" else 2)
    return np.diag(information.d) + alpha * np.outer(information.p, information.p)


def _class_suffix(label: int | str | None) -> str:
    return "" if label is None else f" of class {label}"


def _check_all(rule: str, values: np.ndarray, valid: np.ndarray) -> None:
    if not valid.all():
        first = int(np.argmin(valid))
        raise DataError(f"{rule}, got {values[first]} at position {first}")
