"""The first half of spectral k-DPP sampling: choosing the eigenvectors (Kulesza & Taskar 2012, section 5.2).

A k-DPP is a mixture of projection DPPs, one per set of k eigenvectors, weighted by the product of their eigenvalues.
The weights need elementary symmetric polynomials. These are kept as logarithms, because they would otherwise underflow
or overflow. The table has shape (R + 1, degree + 1), and row m holds the polynomials of the first m eigenvalues.
"""

from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 64 * 2**20
WELL_CONDITIONED = 1e-6  # smallest over largest eigenvalue; above it, one pass is accurate to about 1e-10


def above_rounding(eigenvalues: np.ndarray, n: int, features: int) -> np.ndarray:
    """Return a mask of the eigenvalues that exceed the rounding error of the largest one."""
    largest = eigenvalues.max(initial=0.0)
    return eigenvalues > largest * max(n, features) * np.finfo(np.float64).eps


def gram_spectrum(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nonzero eigenvalues of F F^T, (R,) ascending, for F (n, D), and the whitening matrix W (D, R).

    The columns of F W are the unit eigenvectors of F F^T.
    """
    n, width = features.shape
    if n <= width:
        _, singular, right = np.linalg.svd(features.astype(np.float64), full_matrices=False)
        values, vectors = singular[::-1] ** 2, right[::-1].T
    else:
        values, vectors = np.linalg.eigh(_gram(features))
    kept = above_rounding(values, n, width)
    values, whitening = values[kept], vectors[:, kept] / np.sqrt(values[kept])
    if n > width and len(values) and values[0] < WELL_CONDITIONED * values[-1]:
        upper = np.linalg.cholesky(_gram(features, whitening)).T
        left, singular, _ = np.linalg.svd(upper * np.sqrt(values))
        values, whitening = singular[::-1] ** 2, whitening @ np.linalg.solve(upper, left[:, ::-1])
    return values, whitening


def _gram(features: np.ndarray, whitening: np.ndarray | None = None) -> np.ndarray:
    """Return F^T F for F (n, D), or (F W)^T (F W) for W (D, R), in float64."""
    width = features.shape[1] if whitening is None else whitening.shape[1]
    gram = np.zeros((width, width))
    for rows in row_blocks(features, width):
        block = features[rows].astype(np.float64)
        if whitening is not None:
            block = block @ whitening
        gram += block.T @ block
    return gram


def row_blocks(features: np.ndarray, width: int) -> Iterator[slice]:
    """Yield slices of rows whose float64 copies take about 64 MiB, counting ``width`` results per row."""
    step = max(1, BLOCK_BYTES // (8 * max(1, features.shape[1] + width)))
    return (slice(start, start + step) for start in range(0, len(features), step))


def log_elementary_symmetric(log_values: np.ndarray, degree: int) -> np.ndarray:
    """Return the logs of the elementary symmetric polynomials, (R + 1, degree + 1).

    Row m, column j is the log of the sum, over all sets of j of the first m values, of the product of the set.
    """
    table = np.full((len(log_values) + 1, degree + 1), -np.inf)
    table[:, 0] = 0.0
    for m, log_value in enumerate(log_values):
        np.logaddexp(table[m, 1:], log_value + table[m, :-1], out=table[m + 1, 1:])
    return table


def draw_eigenvectors(
    log_values: np.ndarray, table: np.ndarray, degree: int, stream: np.random.Generator
) -> np.ndarray:
    """Draw a set of eigenvectors, weighted by the product of their eigenvalues: (degree,) ascending int64 positions."""
    chosen: list[int] = []
    left = degree
    for m in range(len(log_values), 0, -1):
        if not left:
            break
        if left == m or stream.random() < np.exp(log_values[m - 1] + table[m - 1, left - 1] - table[m, left]):
            chosen.append(m - 1)
            left -= 1
    return np.array(chosen[::-1], dtype=np.int64)


def eigenvector_probability(log_values: np.ndarray, table: np.ndarray, degree_weight: np.ndarray) -> np.ndarray:
    """Return, for each eigenvector, the probability that it is drawn, averaged over degrees with ``degree_weight``.

    The result has shape (R,). It is the sum over j of degree_weight[j] times the probability that the eigenvector is
    among the j drawn.
    """
    probability = np.zeros(len(log_values))
    weight = degree_weight.astype(np.float64)  # weight[j]: probability of reaching eigenvector m with j left to draw
    for m in range(len(log_values), 0, -1):
        top = min(m, len(weight) - 1)
        state = weight[1 : top + 1]
        taken = state * np.exp(log_values[m - 1] + table[m - 1, :top] - table[m, 1 : top + 1])
        left = state * np.exp(table[m - 1, 1 : top + 1] - table[m, 1 : top + 1])
        probability[m - 1] = taken.sum()
        weight[1 : top + 1] = left
        weight[:top] += taken
    return probability
