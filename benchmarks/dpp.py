"""Seconds per draw from the IP-DPP kernel, compared with dppy on the same kernel: ``python -m benchmarks.dpp``.

p is uniform in [0, 1], and the kernel is the paper's (scale n). "First" is a draw including all setup: from p for
longtail, and from the dense kernel for dppy (not counting the time to build it). "Next" is another draw from the same
object. dppy runs only up to --dppy-items and only if log10 of N choose k is below 300. Otherwise its polynomials would
overflow and its draws would be wrong.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import gammaln

from benchmarks.common import machine
from benchmarks.timing import spread, table
from longtail.core.seeds import generator
from longtail.methods.ipdpp.information import Information, ipdpp_kernel
from longtail.methods.ipdpp.structured import RankOneKDPP

SAFE_LOG10 = 300.0


def log10_binomial(n: int, k: int) -> float:
    """Return log10 of the number of k-subsets of n items."""
    return float((gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(10))


def timed(make: Callable[[], Any], draw: Callable[[Any, int], np.ndarray], k: int, repeats: int) -> tuple[list, list]:
    """Return the seconds of first and of next draws. Every draw must have k distinct items."""
    first, following = [], []
    for repeat in range(repeats):
        start = time.perf_counter()
        process = make()
        items = [draw(process, 2 * repeat)]
        first.append(time.perf_counter() - start)
        start = time.perf_counter()
        items.append(draw(process, 2 * repeat + 1))
        following.append(time.perf_counter() - start)
        if any(len(set(chosen)) != k for chosen in items):
            raise SystemExit(f"a draw must have {k} distinct items, got fewer")
    return first, following


def ours(p: np.ndarray, k: int, repeats: int) -> tuple[list, list]:
    """Time longtail's sampler with the algorithm that ``auto`` chooses."""

    def make() -> RankOneKDPP:
        information = Information.from_probability(p)
        return RankOneKDPP(information.d, information.r, k)

    return timed(make, lambda process, number: process.sample(generator(0, "benchmark", number)), k, repeats)


def dppys(p: np.ndarray, k: int, repeats: int) -> tuple[list, list]:
    """Time dppy's exact sampler on the dense kernel."""
    from dppy.finite_dpps import FiniteDPP

    kernel = ipdpp_kernel(p)

    def draw(process: Any, number: int) -> np.ndarray:
        return np.array(process.sample_exact_k_dpp(size=k, random_state=number))

    with contextlib.redirect_stdout(io.StringIO()):
        return timed(lambda: FiniteDPP("likelihood", L=kernel), draw, k, repeats)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[500, 2000, 5000, 100_000, 1_000_000])
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 500])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dppy-items", type=int, default=5000)
    parser.add_argument("--dppy-repeats", type=int, default=1)
    options = parser.parse_args(arguments)
    lines = []
    for n in options.items:
        p = np.random.default_rng(n).random(n)
        for k in (size for size in options.sizes if size < n):
            first, following = ours(p, k, options.repeats)
            line = [f"{n:,}", str(k), spread(first), spread(following)]
            if n <= options.dppy_items and log10_binomial(n, k) < SAFE_LOG10:
                other, other_following = dppys(p, k, options.dppy_repeats)
                ratio = np.median(other) / np.median(first)
                line += [spread(other), spread(other_following), f"{ratio:,.0f}"]
            else:
                line += ["-", "-", ""]
            lines.append(line)
    print(f"{machine('numpy', 'scipy', 'dppy')}, 1 thread; seconds, median (min-max)")
    print(f"n = {options.repeats} for longtail, {options.dppy_repeats} for dppy\n")
    print(table(["N", "k", "longtail, first", "next", "dppy, first", "next", "dppy / longtail, first"], lines))


if __name__ == "__main__":
    main()
