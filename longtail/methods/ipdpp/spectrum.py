"""The first half of spectral k-DPP sampling: which eigenvectors take part (Kulesza & Taskar 2012, section 5.2).

A k-DPP is a mixture of projection DPPs, one for each set of k eigenvectors, weighted by the product of their
eigenvalues. Elementary symmetric polynomials stand as logarithms in a table (R + 1, degree + 1), whose row m holds
those of the first m eigenvalues; they under- and overflow otherwise.
"""

from collections.abc import Iterator

import numpy as np

BLOCK_BYTES = 64 * 2**20
WELL_CONDITIONED = 1e-6  # smallest over largest eigenvalue down to which one pass gives eigenvectors to some 1e-10


def rank_cut(eigenvalues: np.ndarray, n: int, features: int) -> np.ndarray:
    """Which eigenvalues are more than rounding errors of the largest one."""
    largest = eigenvalues.max(initial=0.0)
    return eigenvalues > largest * max(n, features) * np.finfo(np.float64).eps


def gram_spectrum(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (R,) ascending of F F^T for F (n, D), and W (D, R) such that F W are its unit eigenvectors."""
    n, width = features.shape
    if n <= width:
        _, singular, right = np.linalg.svd(features.astype(np.float64), full_matrices=False)
        values, vectors = singular[::-1] ** 2, right[::-1].T
    else:
        values, vectors = np.linalg.eigh(_gram(features))
    kept = rank_cut(values, n, width)
    values, whitening = values[kept], vectors[:, kept] / np.sqrt(values[kept])
    if n > width and len(values) and values[0] < WELL_CONDITIONED * values[-1]:
        upper = np.linalg.cholesky(_gram(features, whitening)).T
        left, singular, _ = np.linalg.svd(upper * np.sqrt(values))
        values, whitening = singular[::-1] ** 2, whitening @ np.linalg.solve(upper, left[:, ::-1])
    return values, whitening


def _gram(features: np.ndarray, whitening: np.ndarray | None = None) -> np.ndarray:
    """F^T F for F (n, D), or (F W)^T (F W) for W (D, R), in float64."""
    width = features.shape[1] if whitening is None else whitening.shape[1]
    gram = np.zeros((width, width))
    for rows in row_blocks(features, width):
        block = features[rows].astype(np.float64)
        if whitening is not None:
            block = block @ whitening
        gram += block.T @ block
    return gram


def row_blocks(features: np.ndarray, width: int) -> Iterator[slice]:
    """Slices over the rows whose float64 copies, with ``width`` results each, take some 64 MB."""
    step = max(1, BLOCK_BYTES // (8 * max(1, features.shape[1] + width)))
    return (slice(start, start + step) for start in range(0, len(features), step))


def log_elementary_symmetric(log_values: np.ndarray, degree: int) -> np.ndarray:
    """(R + 1, degree + 1): row m, column j is the log of the sum of products over all j of the first m values."""
    table = np.full((len(log_values) + 1, degree + 1), -np.inf)
    table[:, 0] = 0.0
    for m, log_value in enumerate(log_values):
        np.logaddexp(table[m, 1:], log_value + table[m, :-1], out=table[m + 1, 1:])
    return table


def draw_eigenvectors(
    log_values: np.ndarray, table: np.ndarray, degree: int, stream: np.random.Generator
) -> np.ndarray:
    """(degree,) ascending int64 positions of a set of eigenvectors, drawn with weight the product of its values."""
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
    """(R,): sum over degrees j of degree_weight[j] times the probability that an eigenvector is among the j drawn."""
    probability = np.zeros(len(log_values))
    weight = degree_weight.astype(np.float64)  # of being about to decide on eigenvector m with j still to draw
    for m in range(len(log_values), 0, -1):
        top = min(m, len(weight) - 1)
        state = weight[1 : top + 1]
        taken = state * np.exp(log_values[m - 1] + table[m - 1, :top] - table[m, 1 : top + 1])
        left = state * np.exp(table[m - 1, 1 : top + 1] - table[m, 1 : top + 1])
        probability[m - 1] = taken.sum()
        weight[1 : top + 1] = left
        weight[:top] += taken
    return probability
