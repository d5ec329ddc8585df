"""Exact k-DPPs of a diagonal plus a rank-one matrix, without any eigendecomposition and in O(n) or O(nk) memory.

For L = diag(d) + u u^T and r = u^2 / d, the matrix determinant lemma gives, for any subset Y,

    det(L_Y) = prod_{i in Y} d_i * (1 + sum_{i in Y} r_i),

so that without the last factor a k-DPP is a set of independent Bernoulli variables, with odds proportional to d,
given that k of them are one. Both algorithms and the inclusion probabilities start from these variables, with the
odds scaled so that k ones are expected: then all numbers are probabilities and none under- or overflows.
Kernel: Lin & Yuan 2025; k-DPPs: Kulesza & Taskar 2012, section 5.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, logit

from longtail.core.errors import DataError
from longtail.methods.ipdpp.checks import as_vector, check_choice, check_size

ALGORITHMS = ("auto", "tables", "rejection")
TABLE_CELLS = 100_000  # n * k up to which "auto" takes tables; above it rejection is the faster, set-up included
TRIAL_ITEMS = 2**20  # ones that a batch of rejection trials may hold
BLOCK_CELLS = 2**16  # items times frequencies that the inclusion probabilities treat at a time
NEGLIGIBLE = 60.0  # exp(-60) = 1e-26: beyond this, a term does not reach the last digit of a sum


class RankOneKDPP:
    """The k-DPP of L = diag(d) + u u^T over n items, P(Y) proportional to det(L_Y) for |Y| = k.

    d: (n,) > 0; r: (n,) u^2 / d >= 0; ``Information`` has both for IP-DPP. 0 <= k <= n.
    algorithm: "tables" takes O(nk) time and two (n + 1, k + 1) arrays once, then O(n) a draw, never more.
    "rejection" takes O(n) once, then on average at most sqrt(2 pi k) trials of O(k) a draw, times (1 + R) / (1 + S),
    with R the sum of the k largest r and S the mean sum of r over a draw: below 2 for the IP-DPP kernel in all of
    3000 kinds of p, but without bound for other r. "auto" takes tables up to n k = 1e5. Both are exact.

    Raises ConfigError for k or algorithm, DataError for d or r.
    """

    def __init__(self, d: ArrayLike, r: ArrayLike, k: int, algorithm: str = "auto") -> None:
        d = as_vector("d", d)
        self.r = as_vector("r", r, len(d))
        if not (np.isfinite(d).all() and (d > 0).all()):
            raise DataError("d must be finite and greater than 0")
        if not (np.isfinite(self.r).all() and (self.r >= 0).all()):
            raise DataError("r must be finite and at least 0")
        check_choice("algorithm", algorithm, ALGORITHMS)
        self.n, self.k = len(d), check_size(k, len(d))
        if algorithm == "auto":
            algorithm = "tables" if self.n * self.k <= TABLE_CELLS else "rejection"
        self.algorithm = algorithm
        if self._is_certain():
            return
        self._one, self._zero = _probabilities_of_one_and_zero(d, self.k)
        if algorithm == "tables":
            self._fill_tables()
        else:
            self._prepare_trials()

    def sample(self, stream: np.random.Generator) -> np.ndarray:
        """(k,) distinct, sorted int64 positions. k = 0 and k = n use nothing of ``stream``."""
        if self._is_certain():
            return np.arange(self.k)
        return self._walk_tables(stream) if self.algorithm == "tables" else self._first_accepted_trial(stream)

    def inclusion_probability(self) -> np.ndarray:
        """(n,) float64: the exact probability of each item to be drawn; O(n sqrt(k)) time, O(n) memory.

        The sum over all subsets of size k is a coefficient of a polynomial, which a discrete Fourier transform reads
        off a circle. On the circle of the scaled odds the coefficient is the largest, so nothing cancels.
        """
        if self._is_certain():
            return np.full(self.n, self.k / max(1, self.n))
        frequency = self._frequencies()[:, None]
        sine, versine = np.sin(frequency), 2 * np.sin(frequency / 2) ** 2
        turn, turn_less_one = np.exp(1j * frequency), 1j * sine - versine

        def one_given_frequency(one: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            inverse = 1.0 / (1.0 + one * turn_less_one)
            return one * turn * inverse, inverse

        log_modulus, phase = np.zeros(len(frequency)), np.zeros(len(frequency))
        rank_one = np.ones(len(frequency), dtype=np.complex128)
        for items in self._blocks(len(frequency)):
            one, zero = self._one[items], self._zero[items]
            log_modulus += 0.5 * np.log1p(-2 * one * zero * versine).sum(axis=1)
            phase += np.arctan2(one * sine, 1 - one * versine).sum(axis=1)
            rank_one += one_given_frequency(one)[0] @ self.r[items]
        weight = np.exp(log_modulus + 1j * (phase - self.k * frequency[:, 0]))
        weight[1:] *= 2  # for the frequency of opposite sign, whose term is the complex conjugate
        total = (weight @ rank_one).real

        probability = np.empty(self.n)
        for items in self._blocks(len(frequency)):
            chosen, inverse = one_given_frequency(self._one[items])
            own = self.r[items] * self._zero[items] * inverse
            probability[items] = (weight @ (chosen * (rank_one[:, None] + own))).real / total
        return np.clip(probability, 0.0, 1.0)

    def _is_certain(self) -> bool:
        return self.k in (0, self.n)

    def _fill_tables(self) -> None:
        """Row m, column j: probability that j of the first m variables are one; ``_full`` has the last factor too."""
        self._plain = np.zeros((self.n + 1, self.k + 1))
        self._full = np.zeros((self.n + 1, self.k + 1))
        self._plain[0, 0] = self._full[0, 0] = 1.0
        for m in range(self.n):
            one, zero, r = self._one[m], self._zero[m], self.r[m]
            plain, full = self._plain[m], self._full[m]
            np.multiply(plain, zero, out=self._plain[m + 1])
            np.multiply(full, zero, out=self._full[m + 1])
            self._plain[m + 1, 1:] += one * plain[:-1]
            self._full[m + 1, 1:] += one * (full[:-1] + r * plain[:-1])

    def _walk_tables(self, stream: np.random.Generator) -> np.ndarray:
        """From the last item to the first: leave it, take it by d, or take it by the rank-one term (at most once)."""
        plain, full = self._plain, self._full
        chosen: list[int] = []
        uniform = stream.random(self.n).tolist()
        left, rank_one_taken = self.k, False
        for m in range(self.n - 1, -1, -1):
            if not left:
                break
            one, zero = self._one[m], self._zero[m]
            if rank_one_taken:
                by_leaving, by_d, by_rank_one = zero * plain[m, left], one * plain[m, left - 1], 0.0
            else:
                by_leaving, by_d = zero * full[m, left], one * full[m, left - 1]
                by_rank_one = one * self.r[m] * plain[m, left - 1]
            point = uniform[m] * (by_leaving + by_d + by_rank_one)
            if point >= by_leaving:
                chosen.append(m)
                left -= 1
                rank_one_taken = rank_one_taken or point >= by_leaving + by_d
        return np.array(chosen[::-1], dtype=np.int64)

    def _prepare_trials(self) -> None:
        """Items in groups whose probabilities of one are within a factor of two, so that a trial costs O(k)."""
        exponent = np.frexp(self._one)[1].astype(np.int16)
        order = np.argsort(exponent, kind="stable")
        self._groups = np.split(order, np.flatnonzero(np.diff(exponent[order])) + 1)
        self._largest_r = np.partition(self.r, self.n - self.k)[self.n - self.k :].sum()
        spread = np.sqrt(2 * np.pi * (self._one * self._zero).sum())
        self._trials = int(min(1 + spread, max(1, TRIAL_ITEMS // self.k)))

    def _first_accepted_trial(self, stream: np.random.Generator) -> np.ndarray:
        while True:
            trial, item = self._draw_trials(stream)
            for hit in np.flatnonzero(np.bincount(trial, minlength=self._trials) == self.k):
                subset = item[trial == hit]
                if stream.random() * (1 + self._largest_r) < 1 + self.r[subset].sum():
                    return np.sort(subset)

    def _draw_trials(self, stream: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The ones of a batch of independent trials: the trial and the item of each.

        The largest probability of a group proposes ones, by the gaps between them, and a proposal stays with the
        probability of its item over the largest.
        """
        trials, items = [], []
        for group in self._groups:
            largest = self._one[group].max()
            position = _ones_of_a_long_row(stream, largest, self._trials * len(group))
            trial, item = position // len(group), group[position % len(group)]
            stays = stream.random(len(item)) * largest < self._one[item]
            trials.append(trial[stays])
            items.append(item[stays])
        return np.concatenate(trials), np.concatenate(items)

    def _frequencies(self) -> np.ndarray:
        """Frequencies in [0, pi) of a transform of odd length, less those where the integrand vanishes.

        The transform is at least so long that sizes which it cannot tell from k have negligible probability
        (Bernstein's inequality), and never longer than the polynomial, for which it is exact.
        """
        variance = (self._one * self._zero).sum()
        length = NEGLIGIBLE / 3 + np.sqrt((NEGLIGIBLE / 3) ** 2 + 2 * NEGLIGIBLE * variance)
        half = int(min(self.n + 1, length)) // 2
        frequency = 2 * np.pi * np.arange(half + 1) / (2 * half + 1)
        return frequency[2 * variance * np.sin(frequency / 2) ** 2 <= NEGLIGIBLE]

    def _blocks(self, frequencies: int) -> Iterator[slice]:
        step = max(1, BLOCK_CELLS // frequencies)
        return (slice(start, start + step) for start in range(0, self.n, step))


def log_det_subset(d: ArrayLike, r: ArrayLike, subset: ArrayLike) -> float:
    """Natural logarithm of det(L_Y) for L = diag(d) + u u^T, r = u^2 / d (n,), and the positions Y (k,) of a subset."""
    chosen = np.asarray(subset, dtype=np.int64)
    return float(np.log(np.asarray(d)[chosen]).sum() + np.log1p(np.asarray(r)[chosen].sum()))


def _probabilities_of_one_and_zero(d: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """(n,) each: t d / (1 + t d) and 1 / (1 + t d), with t such that k ones are expected, 0 < k < n."""
    log_d = np.log(d)
    even = logit(k / len(d))
    log_t = brentq(lambda t: expit(t + log_d).sum() - k, even - log_d.max() - 1, even - log_d.min() + 1, xtol=1e-9)
    return expit(log_t + log_d), expit(-log_t - log_d)


def _ones_of_a_long_row(stream: np.random.Generator, probability: float, length: int) -> np.ndarray:
    """Increasing positions of the ones among ``length`` independent Bernoulli variables of one probability."""
    pieces, last = [], -1
    while last < length:
        expected = (length - 1 - last) * probability
        gaps = stream.geometric(probability, size=int(expected + 4 * np.sqrt(expected)) + 8)
        pieces.append(last + np.cumsum(gaps))
        last = int(pieces[-1][-1])
    position = np.concatenate(pieces)
    return position[position < length]
