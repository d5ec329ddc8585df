"""Synthetic long-tailed features with a hierarchy: superclasses of classes, each class of several modes."""

import numpy as np


def hierarchical_features(
    seed: int,
    *,
    classes: int = 20,
    width: int = 64,
    imbalance: float = 50.0,
    largest: int = 500,
    superclasses: int = 5,
    modes: int = 3,
    held_out: int = 20,
    test: int = 100,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """``train``, ``val`` and ``test``: X (N, width) float32 and y (N,) int64.

    Train counts fall exponentially from ``largest`` to ``largest / imbalance``; val and test hold ``held_out`` and
    ``test`` rows of each class. A row is the sum of its superclass's center, its class's, its mode's and noise; classes
    of one superclass lie close together, in the order of a random permutation over the counts.
    """
    stream = np.random.default_rng(seed)
    parents = stream.permutation(classes) % superclasses
    centers = stream.normal(0, 1.0, (superclasses, width))[parents] + stream.normal(0, 0.22, (classes, width))
    modal = centers[:, None] + stream.normal(0, 0.45, (classes, modes, width))
    mixing = stream.normal(0, width**-0.5, (width, width)) + np.eye(width)
    counts = (largest * imbalance ** (-np.arange(classes) / (classes - 1))).astype(np.int64)

    def draw(number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        y = np.repeat(np.arange(classes), number)
        mode = stream.integers(modes, size=len(y))
        noise = stream.normal(0, 1.0, (len(y), width)) * np.linspace(0.4, 1.2, width)
        rows = np.maximum((modal[y, mode] + noise) @ mixing + 1.0, 0.0)
        return rows.astype(np.float32), y

    return {
        "train": draw(counts),
        "val": draw(np.full(classes, held_out)),
        "test": draw(np.full(classes, test)),
    }
