"""Work on stored features vs. direct PyTorch code: ``python -m benchmarks.features [--threads 2] [--rows 115846]``.

The features are synthetic, with the shape of ImageNet-LT, sorted by label as in its lists, and with 20 val rows per
class. "direct" is a typical script without this library: a DataLoader over single rows, loops over classes, autograd,
and ``loss.item()`` at each step. Both sides get the same inputs and alternate in one process. Their results must agree
to 1e-5.
"""

import argparse
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler, TensorDataset

from benchmarks.common import machine
from benchmarks.timing import alternate, ratios, spread, table
from longtail.core.seeds import derive_seed
from longtail.data.samplers import create_sampler
from longtail.methods.heads.base import LinearHead
from longtail.methods.heads.crt import CRTParams, initial_head
from longtail.methods.heads.gradient.scorers import LinearScorer
from longtail.methods.heads.gradient.sgd import HeadSgd
from longtail.methods.heads.ncm import NCM
from longtail.methods.heads.tau import TauNorm, tau_normalized

TOLERANCE = 1e-5
IMAGENET_LT = {"rows": 115_846, "classes": 1000, "largest": 1280, "smallest": 5}
VAL_PER_CLASS = 20
LR, MOMENTUM, WEIGHT_DECAY = 0.2, 0.9, 5e-4
SAMPLES_PER_CLASS = 4
SEED = 0


@dataclass(frozen=True)
class Inputs:
    """X (N, D) float32 and y (N,) int64 of train and val, a stage-1 head, and settings shared by both sides."""

    X: np.ndarray
    y: np.ndarray
    X_val: np.ndarray
    y_val: np.ndarray
    head: LinearHead
    start: LinearHead
    counts: np.ndarray
    batch_size: int
    workers: int

    @property
    def steps(self) -> int:
        return len(self.y) // self.batch_size


def class_counts(rows: int, classes: int) -> np.ndarray:
    """Return descending class counts, (C,) int64, that sum to about ``rows``.

    The ratios of the largest and the smallest count to the mean are those of ImageNet-LT.
    """
    share = (rows / classes) / (IMAGENET_LT["rows"] / IMAGENET_LT["classes"])
    largest = min(IMAGENET_LT["largest"] * share, rows / 2)
    smallest = max(IMAGENET_LT["smallest"] * share, 1.0)

    def tail(power: float) -> np.ndarray:
        return np.round(largest * (smallest / largest) ** (np.linspace(0, 1, classes) ** power)).astype(np.int64)

    low, high = 0.01, 100.0  # a higher power keeps more classes large
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if tail(middle).sum() < rows else (low, middle)
    return np.maximum(tail(high), 1)


def synthetic(rows: int, dim: int, classes: int, batch_size: int, workers: int) -> Inputs:
    """Return nonnegative features around one center per class, and a head with longer rows for larger classes."""
    rng = np.random.default_rng(SEED)
    counts = class_counts(rows, classes)
    centers = rng.standard_normal((classes, dim), dtype=np.float32) * np.float32(5 / dim**0.5)

    def around(y: np.ndarray) -> np.ndarray:
        X = np.empty((len(y), dim), np.float32)
        for start in range(0, len(y), 4096):
            part = slice(start, start + 4096)
            noise = rng.standard_normal((len(y[part]), dim), dtype=np.float32)
            X[part] = np.maximum(centers[y[part]] + noise, 0) * np.float32(8 / dim**0.5)
        return X

    y = np.repeat(np.arange(classes), counts)
    y_val = np.repeat(np.arange(classes), VAL_PER_CLASS)
    norms = (counts / counts.min()).astype(np.float32) ** np.float32(0.1)
    weight = centers / np.linalg.norm(centers, axis=1, keepdims=True) * norms[:, None]
    start = initial_head(classes, dim, SEED, np.float32)
    return Inputs(
        around(y), y, around(y_val), y_val, LinearHead(weight), start, counts, min(batch_size, len(y)), workers
    )


def largest_difference(ours: np.ndarray, direct: np.ndarray) -> float:
    """Return max |ours - direct|. Stop the benchmark if it exceeds the tolerance."""
    difference = float(np.abs(ours - direct).max())
    assert difference <= TOLERANCE, f"results differ by {difference:.1e}, more than {TOLERANCE:.0e}"
    return difference


# tau grid


def tau_grid(inputs: Inputs) -> np.ndarray:
    """Return the accuracy by tau and class, (21, C)."""
    tau = TauNorm(head=inputs.head)
    return tau.fit(inputs.X, inputs.y, inputs.X_val, inputs.y_val).class_accuracy_


def direct_tau_grid(inputs: Inputs) -> np.ndarray:
    """Do the same with one pass over the val rows per tau and one mask per class."""
    weight, classes = torch.from_numpy(inputs.head.weight), len(inputs.head.weight)
    val = loader(inputs, torch.from_numpy(inputs.X_val), torch.from_numpy(inputs.y_val))
    accuracy = np.empty((21, classes))
    for t in range(21):
        scaled = weight / weight.norm(dim=1, keepdim=True) ** (t / 10)
        batches = [((x @ scaled.T).argmax(dim=1), y) for x, y in val]
        predicted = torch.cat([p for p, _ in batches])
        labels = torch.cat([y for _, y in batches])
        for c in range(classes):
            members = labels == c
            accuracy[t, c] = (predicted[members] == c).double().mean().item()
    return accuracy


def tau_difference(inputs: Inputs, ours: np.ndarray, direct: np.ndarray) -> float:
    """Return the largest difference of a class accuracy, ignoring rows where only rounding decides between classes."""
    ours = ours.copy()
    for t in np.flatnonzero((np.abs(ours - direct) > TOLERANCE).any(axis=1)):
        scores = inputs.X_val.astype(np.float64) @ tau_normalized(inputs.head, t / 10).T
        second, first = np.partition(scores, -2, axis=1)[:, -2:].T
        ties = np.bincount(inputs.y_val[first - second <= TOLERANCE], minlength=len(ours[t])) / VAL_PER_CLASS
        ours[t] = np.where(np.abs(ours[t] - direct[t]) <= ties + TOLERANCE, direct[t], ours[t])
    return largest_difference(ours, direct)


def loader(inputs: Inputs, X: Tensor, y: Tensor) -> DataLoader:
    """Return batches in order, collated from single rows."""
    return DataLoader(TensorDataset(X, y), batch_size=inputs.batch_size, num_workers=inputs.workers)


# NCM


def ncm(inputs: Inputs) -> tuple[NCM, np.ndarray]:
    """Return the fitted estimator and the predictions for the val rows."""
    estimator = NCM().fit(inputs.X, inputs.y)
    return estimator, estimator.predict(inputs.X_val)


def direct_ncm(inputs: Inputs, *, batched: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return centroids (C, D) and the predictions for the val rows. All computation is float32, distances by batch.

    The centroids come from one mask per class over the matrix in memory. With ``batched``, they come from two passes of
    a DataLoader.
    """
    X, y = torch.from_numpy(inputs.X), torch.from_numpy(inputs.y)
    if batched:
        rows = loader(inputs, X, y)
        mean = torch.stack([x.sum(dim=0) for x, _ in rows]).sum(dim=0) / len(X)
        centroids = torch.zeros(len(inputs.counts), X.shape[1])
        for x, labels in rows:
            unit = F.normalize(x - mean)
            for c in labels.unique().tolist():
                centroids[c] += unit[labels == c].sum(dim=0)
        centroids /= torch.from_numpy(inputs.counts)[:, None]
    else:
        mean = X.mean(dim=0)
        centroids = torch.stack([F.normalize(X[y == c] - mean).mean(dim=0) for c in range(len(inputs.counts))])
    val = loader(inputs, torch.from_numpy(inputs.X_val), torch.from_numpy(inputs.y_val))
    batches = [torch.cdist(F.normalize(x - mean), centroids).argmin(dim=1) for x, _ in val]
    return centroids.numpy(), torch.cat(batches).numpy()


def few_queries(inputs: Inputs) -> Inputs:
    """Keep every tenth val row, for the loop over classes."""
    return replace(inputs, X_val=inputs.X_val[::10].copy(), y_val=inputs.y_val[::10])


def looped_ncm(inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Return centroids (C, D) and the predictions for the val rows, looping over classes for both, in float32."""
    X, y = torch.from_numpy(inputs.X), torch.from_numpy(inputs.y)
    mean = X.mean(dim=0)
    query = F.normalize(torch.from_numpy(inputs.X_val) - mean)
    centroids, distances = torch.empty(len(inputs.counts), X.shape[1]), torch.empty(len(inputs.counts), len(query))
    difference = torch.empty_like(query)
    for c in range(len(inputs.counts)):
        centroids[c] = F.normalize(X[y == c] - mean).mean(dim=0)
        torch.sub(query, centroids[c], out=difference)
        distances[c] = difference.square_().sum(dim=1)
    return centroids.numpy(), distances.argmin(dim=0).numpy()


def ncm_difference(inputs: Inputs, ours: tuple[NCM, np.ndarray], direct: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the largest difference of the centroids.

    Where the predictions differ, also check that the scores of the two predicted classes agree.
    """
    estimator, predicted = ours
    other = np.flatnonzero(predicted != direct[1])
    if len(other):
        scores = estimator.scores(inputs.X_val[other])
        row = np.arange(len(other))
        largest_difference(scores[row, predicted[other]], scores[row, direct[1][other]])
    return largest_difference(estimator.centroids_, direct[0])


# cRT


def crt_epoch(inputs: Inputs) -> np.ndarray:
    """Return weight and bias after one epoch at the base learning rate, (C, D + 1)."""
    assert inputs.start.bias is not None
    scorer = LinearScorer(torch.tensor(inputs.start.weight), torch.tensor(inputs.start.bias))
    params = CRTParams(epochs=1, batch_size=inputs.batch_size, momentum=MOMENTUM, samples_per_class=SAMPLES_PER_CLASS)
    X = torch.from_numpy(inputs.X)
    HeadSgd(params, "cpu", SEED).train(scorer, X, inputs.y, None, lr=LR, weight_decay=WEIGHT_DECAY, select="last")
    return torch.column_stack([scorer.weight, scorer.bias]).numpy()


def our_draws(inputs: Inputs) -> list[int]:
    """Return the rows of :func:`crt_epoch` in the order in which it draws them."""
    seed = derive_seed(SEED, "crt", "sampler")
    sampler = create_sampler("class_aware", inputs.y, seed=seed, epochs=1, samples_per_class=SAMPLES_PER_CLASS)
    rows: list[int] = sampler.epoch(0, inputs.steps * inputs.batch_size).tolist()
    return rows


def direct_crt_epoch(inputs: Inputs, rows: Dataset, sampler: Sampler[int] | list[int]) -> np.ndarray:
    """Do the same with a DataLoader, autograd, an optimizer, and the loss read at each step."""
    weight = torch.from_numpy(inputs.start.weight)
    model = nn.Linear(weight.shape[1], weight.shape[0])
    model.load_state_dict({"weight": weight, "bias": torch.from_numpy(inputs.start.bias)})
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    batches = DataLoader(
        rows, batch_size=inputs.batch_size, sampler=sampler, num_workers=inputs.workers, drop_last=True
    )
    total = 0.0
    for step, (x, y) in enumerate(batches):
        if step == inputs.steps:
            break
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
    assert np.isfinite(total)
    return torch.column_stack([model.weight, model.bias]).detach().numpy()


class CyclicSampler(Sampler[int]):
    """Class-aware draws one at a time: the next class of a shuffled cycle, then the next images of its own cycle."""

    def __init__(self, y: np.ndarray, draws: int) -> None:
        self._images = [np.flatnonzero(y == c).tolist() for c in range(int(y.max()) + 1)]
        self._draws = draws

    def __len__(self) -> int:
        return self._draws

    def __iter__(self) -> Iterator[int]:
        stream = random.Random(SEED)  # noqa: S311 - no secret
        classes = _cycle(list(range(len(self._images))), stream)
        images = [_cycle(members, stream) for members in self._images]
        for turn in range(0, self._draws, SAMPLES_PER_CLASS):
            label = next(classes)
            for _ in range(min(SAMPLES_PER_CLASS, self._draws - turn)):
                yield next(images[label])


def _cycle(items: list[int], stream: random.Random) -> Iterator[int]:
    items = items.copy()
    while True:
        stream.shuffle(items)
        yield from items


class FileRows(Dataset):
    """Rows of an HDF5 file. The file is opened on the first read, so that each worker has its own handle."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: h5py.File | None = None

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        if self._file is None:
            self._file = h5py.File(self._path, "r")
            self._features, self._labels = self._file["features"], self._file["labels"][:]
        return torch.from_numpy(self._features[row]), int(self._labels[row])


def read_whole(path: Path) -> np.ndarray:
    """Return the features (N, D), read at once."""
    with h5py.File(path, "r") as file:
        return np.asarray(file["features"])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=IMAGENET_LT["rows"])
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=IMAGENET_LT["classes"])
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both sides")
    parser.add_argument("--workers", type=int, default=0, help="workers of the direct side's DataLoaders")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    with threadpoolctl.threadpool_limits(options.threads):
        inputs = synthetic(options.rows, options.dim, options.classes, options.batch_size, options.workers)
        report(inputs, options.repeats, options.threads)


def report(inputs: Inputs, repeats: int, threads: int) -> None:
    lines = []

    ours, direct = alternate(repeats, lambda: tau_grid(inputs), lambda: direct_tau_grid(inputs))
    difference = tau_difference(inputs, ours.result, direct.result)
    lines.append(_line("tau grid of 21", ours.seconds, direct.seconds, difference))

    ours, masks, batches = alternate(
        repeats,
        lambda: ncm(inputs),
        lambda: direct_ncm(inputs, batched=False),
        lambda: direct_ncm(inputs, batched=True),
    )
    for direct, how in ((masks, "one mask per class"), (batches, "DataLoader")):
        difference = ncm_difference(inputs, ours.result, direct.result)
        lines.append(_line(f"NCM fit + predict; direct: {how}", ours.seconds, direct.seconds, difference))

    few = few_queries(inputs)
    ours, direct = alternate(repeats, lambda: ncm(few), lambda: looped_ncm(few))
    difference = ncm_difference(few, ours.result, direct.result)
    work = f"NCM fit + predict of {len(few.y_val):,} rows; direct: a loop over classes"
    lines.append(_line(work, ours.seconds, direct.seconds, difference))

    memory = TensorDataset(torch.from_numpy(inputs.X), torch.from_numpy(inputs.y))
    draws = inputs.steps * inputs.batch_size
    difference = largest_difference(crt_epoch(inputs), direct_crt_epoch(inputs, memory, our_draws(inputs)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.h5"
        with h5py.File(path, "w") as file:
            file["features"], file["labels"] = inputs.X, inputs.y
        ours, direct, ours_from_file, from_file = alternate(
            repeats,
            lambda: crt_epoch(inputs),
            lambda: direct_crt_epoch(inputs, memory, CyclicSampler(inputs.y, draws)),
            lambda: crt_epoch(replace(inputs, X=read_whole(path))),
            lambda: direct_crt_epoch(inputs, FileRows(path), CyclicSampler(inputs.y, draws)),
        )
    for one, other in ((ours, ours_from_file), (direct, from_file)):
        largest_difference(one.result, other.result)
    lines.append(_line("cRT, one epoch; both: rows in memory", ours.seconds, direct.seconds, difference))
    lines.append(
        _line("cRT, one epoch; both: from an HDF5 file", ours_from_file.seconds, from_file.seconds, difference)
    )

    print(f"{machine('torch', 'numpy', 'scikit-learn', 'h5py')}")
    print(
        f"{len(inputs.y):,} x {inputs.X.shape[1]:,} float32 features, {len(inputs.counts):,} classes of "
        f"{inputs.counts.max():,} to {inputs.counts.min()}, {len(inputs.y_val):,} val rows, batches of "
        f"{inputs.batch_size}, {threads} threads, {inputs.workers} loader workers; n = {repeats}, median (min-max)\n"
    )
    print(table(["work", "longtail, s", "direct, s", "direct / longtail", "largest difference"], lines))
    print(
        "\nFrom a file, longtail reads the whole file before the epoch, which is included in its time. The direct side "
        "reads one row\nat a time. The file is uncompressed, unchunked and in the page cache. cRT results are compared "
        "on the same draws. For\nthe timings, the direct side draws with its own Python iterator."
    )


def _line(work: str, ours: list[float], direct: list[float], difference: float) -> list[str]:
    return [work, spread(ours), spread(direct), spread(ratios(direct, ours)), f"{difference:.1e}"]


if __name__ == "__main__":
    main()
