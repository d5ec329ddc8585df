"""Uniform subsets: the control of every claim about IP-DPP, and what the released code of Lin & Yuan 2025 draws.

The released code runs DPPy's exchange chain for k-DPPs and keeps the chain's first state, which is a uniform subset
drawn before the kernel is looked at. Its generator starts from 42 at every call, so that each re-selection returns
the same items whatever the model says. ``uniform_official`` repeats this bit for bit, for comparisons only.
"""

import numpy as np

from longtail.core.errors import ConfigError
from longtail.methods.ipdpp.checks import check_size

OFFICIAL_SEED = 42
CHAIN_STEPS = 9  # that the released code runs after the state which it keeps


def uniform(n: int, k: int, stream: np.random.Generator) -> np.ndarray:
    """(k,) distinct, sorted int64 positions among n, every subset as likely; k = 0 and k = n use no draws."""
    if check_size(k, n) in (0, n):
        return np.arange(k)
    return np.sort(stream.choice(n, k, replace=False, shuffle=False))


def uniform_official(counts: list[int], k: int) -> list[np.ndarray]:
    """The positions that the released code draws within each class, in the order in which it draws them.

    counts: number of items of classes 0..C-1; k >= 1, one for all classes (the released code reads a list of them
    back to front). Classes are visited from the last to the first, a class of at most k items is kept whole without
    a draw, and the steps of the chain use up draws between classes.
    Returns one int64 array of min(k, n_c) positions per class, in the order of ``counts``.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ConfigError(f"k of uniform_official must be one integer of at least 1 for all classes, got {k!r}")
    stream = np.random.RandomState(OFFICIAL_SEED)
    drawn: list[np.ndarray] = []
    for n in reversed(counts):
        if n <= k:
            drawn.append(np.arange(n))
            continue
        drawn.append(stream.choice(n, size=k, replace=False))
        for _ in range(CHAIN_STEPS):
            if stream.rand() < 0.5:  # propose to exchange one of the k items for one of the n - k, and accept or not
                stream.choice(k)
                stream.choice(n - k)
                stream.rand()
    return drawn[::-1]
