"""Seconds for a draw of the IP-DPP kernel, beside dppy on the same kernel: ``python -m benchmarks.dpp``.

p is uniform in [0, 1], the kernel that of the paper (scale n). "First" is a draw with all set-up, from p for longtail,
from the dense kernel for dppy (whose making is not counted); "next" a further draw of the same object. dppy runs up to
--dppy-items and only where its polynomials do not overflow (log10 of N over k below 300), else its draws are wrong.
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
    """log10 of the number of k-subsets of n items."""
    return float((gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)) / np.log(10))


def timed(make: Callable[[], Any], draw: Callable[[Any, int], np.ndarray], k: int, repeats: int) -> tuple[list, list]:
    """Seconds of first draws and of next ones; every draw must hold k distinct items."""
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
            raise SystemExit(f"a draw of {k} items held fewer")
    return first, following


def ours(p: np.ndarray, k: int, repeats: int) -> tuple[list, list]:
    """longtail's sampler, as its ``auto`` chooses it."""

    def make() -> RankOneKDPP:
        known = Information.from_probability(p)
        return RankOneKDPP(known.d, known.r, k)

    return timed(make, lambda process, number: process.sample(generator(0, "benchmark", number)), k, repeats)


def dppys(p: np.ndarray, k: int, repeats: int) -> tuple[list, list]:
    """dppy's exact sampler on the dense kernel."""
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
