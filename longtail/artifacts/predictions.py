"""Prediction tables: the predictions of one classifier for every test image, in the form that evaluation reads.

Shape legend: M test images, C classes, K = min(5, C).
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longtail.artifacts.digest import Scalar
from longtail.artifacts.hdf5 import read_hdf5, write_hdf5
from longtail.core.errors import ArtifactError, LongtailError

SCHEMA = "longtail/predictions/2"
TOP = 5
_BLOCK_VALUES = 1 << 22
_DATASETS = ("index", "label", "top_class", "top_probability", "label_log_probability", "train_counts")
_ATTRIBUTES = ("method", "num_classes", "likelihood", "selected_on_test", "split_digest")


@dataclass(frozen=True)
class Predictions:
    """One row per test image.

    ``index`` (M,) int64: row of the image in the dataset. ``label`` (M,) int64 in 0..C-1.
    ``top_class`` (M, K) int64: the K best classes, best first; column 0 is the prediction.
    ``top_probability`` (M, K) float32: their softmax probabilities. ``label_log_probability`` (M,) float32: natural
    logarithm of the true class's probability. ``num_classes``: C.
    ``likelihood``: False if softmax(scores) is not a model's likelihood (NCM, tau-normalization). Calibration
    measures are then those of an uncalibrated score.
    ``selected_on_test``: True if a hyperparameter was chosen on the test split.
    ``split_digest``: the split that the rows belong to.
    ``train_counts`` (C,) int64: training images of each class.
    """

    method: str
    index: np.ndarray
    label: np.ndarray
    top_class: np.ndarray
    top_probability: np.ndarray
    label_log_probability: np.ndarray
    num_classes: int
    likelihood: bool
    selected_on_test: bool
    split_digest: str
    train_counts: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Predicted class of each image, (M,) int64."""
        return self.top_class[:, 0]

    @property
    def correct(self) -> np.ndarray:
        """Whether the prediction is the label, (M,) bool."""
        return self.predicted == self.label

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the predicted class, (M,) float64 in [0, 1]."""
        return self.top_probability[:, 0].astype(np.float64)


def build_predictions(
    method: str,
    scores: np.ndarray,
    label: np.ndarray,
    index: np.ndarray,
    *,
    likelihood: bool,
    selected_on_test: bool,
    split_digest: str,
    train_counts: np.ndarray,
) -> Predictions:
    """The table of a method's scores (M, C), of any float dtype.

    Classes are ranked by score, not by probability, because two close scores may round to one probability. The lowest
    class wins a tie. The softmax is computed in float64, in blocks of rows.
    Raises LongtailError for scores that are not finite, labels outside 0..C-1, or arrays of different lengths.
    """
    scores = np.asarray(scores)
    label = np.asarray(label, dtype=np.int64)
    index = np.asarray(index, dtype=np.int64)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise LongtailError(f"{method}: scores must have the shape (images, classes), got {scores.shape}")
    rows, num_classes = scores.shape
    if label.shape != (rows,) or index.shape != (rows,):
        raise LongtailError(
            f"{method}: labels and index must be ({rows},) like the rows of scores, got {label.shape} and {index.shape}"
        )
    if train_counts.shape != (num_classes,):
        raise LongtailError(
            f"{method}: train_counts must be ({num_classes},) like the columns of scores, got {train_counts.shape}"
        )
    outside = np.flatnonzero((label < 0) | (label >= num_classes))
    if outside.size:
        raise LongtailError(
            f"{method}: labels must be 0 to {num_classes - 1}, got {label[outside[0]]} in row {outside[0]}"
        )

    k = min(TOP, num_classes)
    top_class = np.empty((rows, k), dtype=np.int64)
    top_probability = np.empty((rows, k), dtype=np.float32)
    label_log_probability = np.empty(rows, dtype=np.float32)
    step = max(1, _BLOCK_VALUES // num_classes)
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        block = scores[start:stop].astype(np.float64)
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            raise LongtailError(
                f"{method}: scores must be finite, but those of row {start + int(np.argmin(finite))} are not"
            )
        highest = block.max(axis=1)
        log_sum = highest + np.log(np.exp(block - highest[:, None]).sum(axis=1))
        each = np.arange(stop - start)
        label_log_probability[start:stop] = block[each, label[start:stop]] - log_sum
        for rank in range(k):
            best = block.argmax(axis=1)
            top_class[start:stop, rank] = best
            top_probability[start:stop, rank] = np.exp(block[each, best] - log_sum)
            block[each, best] = -np.inf
    return Predictions(
        method=method,
        index=index,
        label=label,
        top_class=top_class,
        top_probability=top_probability,
        label_log_probability=label_log_probability,
        num_classes=num_classes,
        likelihood=likelihood,
        selected_on_test=selected_on_test,
        split_digest=split_digest,
        train_counts=train_counts.astype(np.int64),
    )


def write_predictions(path: str | Path, predictions: Predictions) -> None:
    """Write the table atomically. Equal tables give equal bytes."""
    datasets: dict[str, np.ndarray] = {name: getattr(predictions, name) for name in _DATASETS}
    attributes: dict[str, Scalar] = {name: getattr(predictions, name) for name in _ATTRIBUTES}
    write_hdf5(path, datasets, attributes, schema=SCHEMA)


def read_predictions(path: str | Path, made_by: str) -> Predictions:
    """Read a verified table. Raises ArtifactError for a missing, damaged or incomplete file."""
    content = read_hdf5(path, schema=SCHEMA, made_by=made_by)
    data, attributes = content.datasets, content.attributes
    missing = [name for name in (*_DATASETS, *_ATTRIBUTES) if name not in data and name not in attributes]
    if missing:
        raise ArtifactError(path, f"lacks {', '.join(missing)}", made_by)
    return Predictions(
        method=str(attributes["method"]),
        index=data["index"],
        label=data["label"],
        top_class=data["top_class"],
        top_probability=data["top_probability"],
        label_log_probability=data["label_log_probability"],
        num_classes=int(attributes["num_classes"]),
        likelihood=bool(attributes["likelihood"]),
        selected_on_test=bool(attributes["selected_on_test"]),
        split_digest=str(attributes["split_digest"]),
        train_counts=data["train_counts"],
    )
