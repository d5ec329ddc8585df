"""Uniform subsets: the control for IP-DPP, and a replica of what the released code of Lin & Yuan 2025 draws.

The released code runs DPPy's exchange chain for k-DPPs but keeps the chain's first state. That state is a uniform
subset drawn before the kernel is read. The code also reseeds its generator with 42 on every call, so each re-selection
returns the same items regardless of the model. ``uniform_official`` reproduces this bit for bit, for comparison only.
"""

import numpy as np

from longtail.core.errors import ConfigError
from longtail.methods.ipdpp.checks import check_size

OFFICIAL_SEED = 42
CHAIN_STEPS = 9  # steps that the released code runs after the state it keeps


def uniform(n: int, k: int, stream: np.random.Generator) -> np.ndarray:
    """Draw k of n positions: (k,) distinct, sorted int64. All subsets are equally likely.

    k = 0 and k = n consume no random numbers.
    """
    if check_size(k, n) in (0, n):
        return np.arange(k)
    return np.sort(stream.choice(n, k, replace=False, shuffle=False))


def uniform_official(counts: list[int], k: int) -> list[np.ndarray]:
    """Return the positions that the released code draws within each class, in the order it draws them.

    - Classes are visited from last to first.
    - A class with at most k items is kept whole without a draw.
    - The steps of the chain consume random numbers between classes.

    Args:
        counts: number of items in each of the classes 0..C-1.
        k: at least 1, the same for all classes. (The released code reads a list of sizes back to front.)

    Returns:
        One int64 array of min(k, n_c) positions per class, in the order of ``counts``.

    Raises:
        ConfigError: ``k`` is not an integer of at least 1.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise ConfigError(f"k must be one integer of at least 1 for uniform_official, got {k!r}")
    stream = np.random.RandomState(OFFICIAL_SEED)
    drawn: list[np.ndarray] = []
    for n in reversed(counts):
        if n <= k:
            drawn.append(np.arange(n))
            continue
        drawn.append(stream.choice(n, size=k, replace=False))
        for _ in range(CHAIN_STEPS):
            if stream.rand() < 0.5:  # propose swapping one of the k items for one of the others, then accept or reject
                stream.choice(k)
                stream.choice(n - k)
                stream.rand()
    return drawn[::-1]
