"""Independent random streams, addressed by name instead of by order of use."""

import hashlib
from dataclasses import dataclass

import numpy as np

from longtail.core.params import Group, key


@dataclass(frozen=True, kw_only=True)
class SeedParams(Group):
    """The one seed of everything but the split."""

    seed: int = key(0, "seed of everything but the split; each stage derives its own", low=0, high=2**63 - 1)


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on every part and its type: the same on every machine and Python.

    >>> derive_seed(0, "augment", 3) != derive_seed(0, "augment", 4)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(*parts: int | str) -> np.random.Generator:
    """A counter-based NumPy generator for the stream named by ``parts``."""
    return np.random.Generator(np.random.Philox(derive_seed(*parts)))
