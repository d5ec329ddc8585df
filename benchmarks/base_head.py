"""Time and memory of the base head: ``python -m benchmarks.base_head [--rows 115846 --dim 2048 --classes 1000]``.

The features are synthetic, with the class counts of ImageNet-LT in proportion, see ``benchmarks.features``. The default
size is that of CIFAR-100-LT with a backbone of 1,280 features. scikit-learn's logistic regression with the chosen
strength, on the same standardized rows, is the reference where ``--reference`` asks for it.
"""

import argparse
import resource
import time
from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.common import machine
from benchmarks.features import synthetic
from benchmarks.timing import table
from longtail.methods.heads import SoftmaxRegression


def balanced_accuracy(scores: np.ndarray, y: np.ndarray) -> float:
    """Mean class accuracy in percent."""
    right = scores.argmax(axis=1) == y
    return 100 * float(np.mean([right[y == c].mean() for c in np.unique(y)]))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_847)
    parser.add_argument("--dim", type=int, default=1280)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--reference", action="store_true", help="also fit scikit-learn's logistic regression")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    inputs = synthetic(options.rows, options.dim, options.classes, batch_size=512, workers=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    lines = []
    for seed in range(options.repeats):
        start = time.perf_counter()
        fitted = SoftmaxRegression("uniform", device=options.device, random_state=seed).fit(inputs.X, inputs.y)
        seconds = time.perf_counter() - start
        accuracy = balanced_accuracy(fitted.scores(inputs.X_val), inputs.y_val)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
        lines.append([f"base head, seed {seed}", f"{seconds:.1f}", f"{fitted.l2_:g}", f"{accuracy:.2f}", f"{peak:.0f}"])
    if options.reference:
        from sklearn.linear_model import LogisticRegression

        start = time.perf_counter()
        model = LogisticRegression(C=1 / (fitted.l2_ * len(inputs.y)), max_iter=1000)
        model.fit(fitted.head_.inputs(inputs.X), inputs.y)
        seconds = time.perf_counter() - start
        shares = np.bincount(inputs.y) / len(inputs.y)
        scores = model.decision_function(fitted.head_.inputs(inputs.X_val)) - np.log(shares)
        accuracy = balanced_accuracy(scores, inputs.y_val)
        lines.append(["scikit-learn, one strength", f"{seconds:.1f}", f"{fitted.l2_:g}", f"{accuracy:.2f}", "-"])
    print(table(["fit", "seconds", "l2", "macro on new rows", "MiB beside the features"], lines))
    size = f"{len(inputs.y)} x {options.dim} x {options.classes}"
    print(f"\n{size}, {options.threads} threads, {options.device}; {machine('torch', 'numpy', 'scikit-learn')}")


if __name__ == "__main__":
    main()
