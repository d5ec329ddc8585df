"""Measures of one method on a long-tailed problem.

Groups and averages follow the code of Kang et al. 2020 (``classifier-balancing``). A class belongs to many, medium or
few by its number of *training* images. The accuracy of a group is the unweighted mean over its classes. Differences:

- An empty group is left out. Theirs is reported as 0.
- A class without a test image is an error.

The calibration error is that of Naeini et al. 2015 and Guo et al. 2017.

Shape legend: M test images, C classes.
"""

from typing import NamedTuple

import numpy as np

from longtail.artifacts.predictions import Predictions
from longtail.core.errors import DataError
from longtail.evaluation.shots import Shots

GROUPS = ("many", "medium", "few")
ECE_BINS = 15

SUMMARY_KEYS = ("all", "many", "medium", "few", "macro", "worst", "ece", "nll", "selected_on_test")
DETAIL_KEYS = ("top5", "f1", "harmonic", "geometric", "ece_many", "ece_medium", "ece_few", "uncalibrated")


def group_of(counts: np.ndarray, shots: Shots) -> np.ndarray:
    """The group of each class, (C,) str.

    A class is in many if it has more than ``many_above`` training images, in few if it has fewer than ``few_below``,
    and otherwise in medium.

    Args:
        counts: (C,) int, training images per class.
        shots: the limits.
    """
    counts = np.asarray(counts)
    return np.where(counts > shots.many_above, "many", np.where(counts < shots.few_below, "few", "medium"))


def group_means(values: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """The unweighted mean of class ``values`` (C,) in each group, and over all classes as ``macro``.

    Classes whose value is NaN (no image in this split) do not count. A group with no other classes is left out.
    """
    present = ~np.isnan(values)
    members = {group: present & (groups == group) for group in GROUPS} | {"macro": present}
    return {name: float(values[member].mean()) for name, member in members.items() if member.any()}


def class_accuracy(predictions: Predictions) -> np.ndarray:
    """The accuracy of each class, (C,) float64 in [0, 1].

    Raises:
        DataError: a class has no test image.
    """
    images = np.bincount(predictions.label, minlength=predictions.num_classes)
    absent = np.flatnonzero(images == 0)
    if absent.size:
        more = f" and {absent.size - 1} more" if absent.size > 1 else ""
        raise DataError(
            f"class {absent[0]}{more} of {predictions.num_classes} has no test image; every class needs at least one"
        )
    hits = np.bincount(predictions.label[predictions.correct], minlength=predictions.num_classes)
    return hits / images


def macro_f1(label: np.ndarray, predicted: np.ndarray) -> float:
    """Unweighted mean of the F1 scores of all classes that occur in ``label`` or ``predicted`` (both (M,) int)."""
    from sklearn.metrics import f1_score  # takes two seconds to import

    return float(f1_score(label, predicted, average="macro", zero_division=0))


def harmonic_mean(values: np.ndarray) -> float:
    """Harmonic mean of values >= 0; 0 if any value is 0."""
    return 0.0 if (values == 0).any() else float(1 / (1 / values).mean())


def geometric_mean(values: np.ndarray) -> float:
    """Geometric mean of values >= 0; 0 if any value is 0."""
    return 0.0 if (values == 0).any() else float(np.exp(np.log(values).mean()))


class ReliabilityBins(NamedTuple):
    """The bins that hold at least one image, in ascending order. All arrays have the same length.

    Attributes:
        number: int64, 0 to 14.
        images: int64, at least 1.
        confidence: float64, mean confidence in [0, 1].
        accuracy: float64, share of correct predictions in [0, 1].
    """

    number: np.ndarray
    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability_bins(confidence: np.ndarray, correct: np.ndarray) -> ReliabilityBins:
    """Sort predictions into 15 equal-width bins of confidence.

    Bin b holds b/15 <= confidence < (b+1)/15. A confidence of exactly 1 falls in the last bin.

    Args:
        confidence: (M,) float in [0, 1].
        correct: (M,) bool.
    """
    number = np.minimum((confidence * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    count = np.bincount(number, minlength=ECE_BINS)
    used = np.flatnonzero(count)
    mean_confidence = np.bincount(number, weights=confidence, minlength=ECE_BINS)[used] / count[used]
    accuracy = np.bincount(number[correct], minlength=ECE_BINS)[used] / count[used]
    return ReliabilityBins(used, count[used], mean_confidence, accuracy)


def expected_calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Mean over images of their bin's |accuracy - mean confidence|, in [0, 1] (Guo et al. 2017, eq. 3)."""
    bins = reliability_bins(confidence, correct)
    return float((bins.images * np.abs(bins.accuracy - bins.confidence)).sum() / bins.images.sum())


def percent(fraction: float) -> float:
    """A fraction in percent, rounded to 2 decimals."""
    return round(100 * float(fraction), 2)


def accuracy_measures(predictions: Predictions, counts: np.ndarray, shots: Shots) -> dict[str, float]:
    """``all``, the groups, ``macro``, ``worst`` and, with 5 classes or more, ``top5``, in percent with 2 decimals.

    Args and errors are those of :func:`summarize`.
    """
    accuracy = class_accuracy(predictions)
    measures = {"all": percent(predictions.correct.mean())}
    measures |= {name: percent(mean) for name, mean in group_means(accuracy, group_of(counts, shots)).items()}
    measures["worst"] = percent(accuracy.min())
    if predictions.num_classes >= 5:
        in_top = (predictions.top_class[:, :5] == predictions.label[:, None]).any(axis=1)
        measures["top5"] = percent(in_top.mean())
    return measures


def summarize(predictions: Predictions, counts: np.ndarray, shots: Shots) -> dict[str, float | int]:
    """All measures of one method in one mapping: those of ``SUMMARY_KEYS`` and of ``DETAIL_KEYS``.

    Accuracies and calibration errors are in percent with 2 decimals, ``nll`` is in nats with 4. Groups without classes
    are left out, and so is ``top5`` with fewer than 5 classes. ``selected_on_test`` and ``uncalibrated`` are present,
    as 1, only if they hold.

    Args:
        predictions: predictions of the test images.
        counts: (C,) int, training images per class.
        shots: the limits of the groups.

    Raises:
        DataError: a class has no test image, or ``counts`` has another number of classes.
    """
    counts = np.asarray(counts)
    if counts.shape != (predictions.num_classes,):
        raise DataError(
            f"{predictions.method}: predictions are over {predictions.num_classes} classes, "
            f"but class counts have shape {counts.shape}"
        )
    accuracy = class_accuracy(predictions)
    groups = group_of(counts, shots)
    correct, confidence = predictions.correct, predictions.confidence

    measures: dict[str, float | int] = {**accuracy_measures(predictions, counts, shots)}
    measures["ece"] = percent(expected_calibration_error(confidence, correct))
    measures["nll"] = round(-float(predictions.label_log_probability.astype(np.float64).mean()), 4) + 0.0
    if predictions.selected_on_test:
        measures["selected_on_test"] = 1

    measures["f1"] = percent(macro_f1(predictions.label, predictions.predicted))
    measures["harmonic"] = percent(harmonic_mean(accuracy))
    measures["geometric"] = percent(geometric_mean(accuracy))
    group_of_image = groups[predictions.label]
    for group in GROUPS:
        member = group_of_image == group
        if member.any():
            measures[f"ece_{group}"] = percent(expected_calibration_error(confidence[member], correct[member]))
    if not predictions.likelihood:
        measures["uncalibrated"] = 1
    return measures


def select_keys(measures: dict[str, float | int], keys: tuple[str, ...]) -> dict[str, float | int]:
    """The measures named in ``keys``, where present."""
    return {key: measures[key] for key in keys if key in measures}
