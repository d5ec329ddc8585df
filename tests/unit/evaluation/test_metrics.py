"""Measures: groups, averages, calibration, and what is left out."""

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from longtail.artifacts.predictions import Predictions, build_predictions
from longtail.core.errors import ConfigError, DataError
from longtail.evaluation.metrics import (
    DETAIL_KEYS,
    SUMMARY_KEYS,
    class_accuracy,
    expected_calibration_error,
    geometric_mean,
    group_means,
    group_of,
    harmonic_mean,
    macro_f1,
    reliability_bins,
    select_keys,
    summarize,
)
from longtail.evaluation.shots import Shots

STRICT = Shots()
OLTR = Shots(many_above=99, few_below=21)


def predict(predicted: np.ndarray, label: np.ndarray, num_classes: int, confidence: float = 0.9) -> Predictions:
    """Table that predicts ``predicted`` with one confidence."""
    other = (1 - confidence) / max(num_classes - 1, 1)
    probability = np.full((len(label), num_classes), other)
    probability[np.arange(len(label)), predicted] = confidence
    return build_predictions(
        "crt",
        np.log(probability),
        label,
        np.arange(len(label)),
        likelihood=True,
        selected_on_test=False,
        split_digest="s",
        train_counts=np.full(num_classes, 30),
    )


def table_with_accuracies(accuracies: list[float], images: int = 10) -> Predictions:
    """``images`` test images a class, the given share of each predicted rightly, the others as the next class."""
    classes = len(accuracies)
    label = np.repeat(np.arange(classes), images)
    position = np.tile(np.arange(images), classes)
    right = position < np.round(np.array(accuracies)[label] * images)
    return predict(np.where(right, label, (label + 1) % classes), label, classes)


COUNTS = np.array([101, 100, 99, 21, 20, 19])
ACCURACIES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.1]


def test_groups_reproduce_the_worked_numbers() -> None:
    measures = summarize(table_with_accuracies(ACCURACIES), COUNTS, STRICT)
    expected = {"many": 90.0, "medium": 65.0, "few": 10.0, "macro": 60.0, "all": 60.0, "worst": 10.0}
    assert select_keys(measures, tuple(expected)) == expected


def test_oltr_limits_give_other_groups_so_the_default_is_not_theirs() -> None:
    measures = summarize(table_with_accuracies(ACCURACIES), COUNTS, OLTR)
    assert (measures["many"], measures["medium"], measures["few"]) == (85.0, 65.0, 30.0)
    assert group_of(COUNTS, STRICT).tolist() != group_of(COUNTS, OLTR).tolist()


def test_class_without_training_image_is_few() -> None:
    assert group_of(np.array([0, 500]), STRICT).tolist() == ["few", "many"]


def test_overlapping_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="many_above"):
        group_of(COUNTS, Shots(many_above=20, few_below=30))


def test_empty_groups_are_left_out_and_never_zero_or_nan() -> None:
    measures = summarize(table_with_accuracies(ACCURACIES), np.full(6, 500), STRICT)
    assert measures["many"] == measures["macro"]
    assert not {"medium", "few", "ece_medium", "ece_few"} & measures.keys()
    json.dumps(measures, allow_nan=False)


IMAGENET_LT = np.repeat([500, 50, 10], [385, 479, 136])
INATURALIST = np.repeat([500, 50, 10], [842, 4076, 3224])
# One class of Places-LT has exactly 100 images and six have exactly 20, where the published limits differ.
PLACES_LT = np.repeat([500, 100, 50, 20, 10], [131, 1, 156, 6, 71])


def published_overall(counts: np.ndarray, rows: tuple[float, float, float], shots: Shots = STRICT) -> float:
    accuracy = dict(zip(("many", "medium", "few"), rows, strict=True))
    groups = group_of(counts, shots)
    return group_means(np.array([accuracy[group] for group in groups]), groups)["macro"]


@pytest.mark.parametrize(
    ("counts", "rows", "mean", "published"),
    [
        (IMAGENET_LT, (65.9, 37.5, 7.7), 44.381, 44.4),
        (IMAGENET_LT, (61.8, 40.1, 15.5), 45.109, 45.1),
        (IMAGENET_LT, (64.3, 41.2, 17.0), 46.802, 46.8),
        (IMAGENET_LT, (61.9, 43.2, 19.4), 47.163, 47.2),
        (IMAGENET_LT, (56.6, 45.3, 28.1), 47.311, 47.3),
        (IMAGENET_LT, (61.8, 46.2, 27.4), 49.649, 49.6),
        (IMAGENET_LT, (59.1, 46.9, 30.7), 49.394, 49.4),
        (IMAGENET_LT, (60.2, 47.2, 30.3), 49.907, 49.9),
        (PLACES_LT, (45.7, 27.3, 8.2), 30.188, 30.2),
        (PLACES_LT, (40.4, 37.1, 27.3), 36.378, 36.4),
        (PLACES_LT, (42.0, 37.6, 24.9), 36.709, 36.7),
        (PLACES_LT, (37.8, 40.7, 31.8), 37.928, 37.9),
        (PLACES_LT, (40.6, 39.1, 28.6), 37.596, 37.6),
        (INATURALIST, (72.2, 63.0, 57.2), 61.655, 61.7),
        (INATURALIST, (65.0, 66.3, 65.5), 65.849, 65.9),
    ],
)
def test_published_groups_average_to_the_published_overall(
    counts: np.ndarray, rows: tuple[float, float, float], mean: float, published: float
) -> None:
    overall = published_overall(counts, rows)
    assert overall == pytest.approx(mean, abs=6e-4)
    assert abs(overall - published) < 0.1


def test_published_places_row_does_not_fit_the_groups_of_oltr() -> None:
    groups = group_of(PLACES_LT, OLTR)
    assert [(groups == group).sum() for group in ("many", "medium", "few")] == [132, 156, 77]
    overall = published_overall(PLACES_LT, (45.7, 27.3, 8.2), OLTR)
    assert overall == pytest.approx(29.925, abs=6e-4)
    assert abs(overall - 30.2) > 0.1


def test_group_means_skip_classes_that_a_split_lacks() -> None:
    groups = np.array(["many", "many", "few"])
    assert group_means(np.array([0.5, np.nan, np.nan]), groups) == {"many": 0.5, "macro": 0.5}


def test_all_and_macro_differ_on_an_unbalanced_test_set() -> None:
    label = np.array([0] * 8 + [1] * 2)
    measures = summarize(predict(np.zeros(10, dtype=int), label, 2), np.array([200, 5]), STRICT)
    assert (measures["all"], measures["macro"], measures["worst"]) == (80.0, 50.0, 0.0)


def test_class_without_test_image_is_an_error_that_names_it() -> None:
    table = predict(np.array([0, 2]), np.array([0, 2]), 4)
    with pytest.raises(DataError, match="class 1 and 1 more of 4 has no test image"):
        class_accuracy(table)


def test_counts_of_another_number_of_classes_are_refused() -> None:
    with pytest.raises(DataError, match="6 classes"):
        summarize(table_with_accuracies(ACCURACIES), COUNTS[:5], STRICT)


def test_measures_do_not_depend_on_the_order_of_images_or_the_names_of_classes() -> None:
    rng = np.random.default_rng(0)
    classes, images = 12, 600
    label = rng.permutation(np.arange(images) % classes)
    scores = rng.normal(size=(images, classes)) + 2 * np.eye(classes)[label]
    counts = rng.integers(1, 200, classes)
    rows, renamed = rng.permutation(images), rng.permutation(classes)
    new_scores = np.empty_like(scores)
    new_scores[:, renamed] = scores[rows]
    new_counts = np.empty_like(counts)
    new_counts[renamed] = counts

    def measure(scores: np.ndarray, label: np.ndarray, counts: np.ndarray) -> dict[str, float | int]:
        table = build_predictions(
            "x",
            scores,
            label,
            np.arange(images),
            likelihood=True,
            selected_on_test=False,
            split_digest="s",
            train_counts=counts,
        )
        return summarize(table, counts, STRICT)

    assert measure(scores, label, counts) == measure(new_scores, renamed[label[rows]], new_counts)


def test_calibration_error_equals_the_example_worked_by_hand() -> None:
    # Bins 7 ([.4667, .5333): confidence .5, accuracy 1/2), 12 ([.8, .8667): .82, 0 of 1), 14 (.95 on average, 1 of 2).
    confidence = np.array([0.5, 0.5, 0.82, 0.9333334, 0.9666666])
    correct = np.array([True, False, False, True, False])
    bins = reliability_bins(confidence, correct)
    assert bins.number.tolist() == [7, 12, 14]
    assert bins.images.tolist() == [2, 1, 2]
    np.testing.assert_allclose(bins.confidence, [0.5, 0.82, 0.95])
    np.testing.assert_allclose(bins.accuracy, [0.5, 0.0, 0.5])
    assert expected_calibration_error(confidence, correct) == pytest.approx((2 * 0 + 1 * 0.82 + 2 * 0.45) / 5)


def test_confidence_of_one_falls_in_the_last_bin_and_zero_in_the_first() -> None:
    assert reliability_bins(np.array([0.0, 1.0]), np.array([True, True])).number.tolist() == [0, 14]


def test_group_calibration_averages_back_to_the_whole_where_bins_agree_in_sign() -> None:
    measures = summarize(table_with_accuracies(ACCURACIES), COUNTS, STRICT)
    # One confidence of 0.9 everywhere: one bin, so the error is |0.9 - accuracy|.
    assert measures["ece"] == 30.0
    assert (measures["ece_many"], measures["ece_medium"], measures["ece_few"]) == (0.0, 25.0, 80.0)


def test_nll_is_in_nats() -> None:
    table = predict(np.array([0, 1]), np.array([0, 1]), 2, confidence=0.8)
    assert summarize(table, np.array([30, 30]), STRICT)["nll"] == round(-math.log(0.8), 4)


def test_f1_averages_over_the_classes_in_truth_or_prediction() -> None:
    # Class 0: precision 1/2, recall 1/2. Class 1: 2/3 and 1. Class 3 is only predicted, class 5 only true: 0. No 2, 4.
    label, predicted = np.array([0, 0, 1, 1, 5, 5]), np.array([0, 1, 1, 1, 0, 3])
    assert macro_f1(label, predicted) == pytest.approx((0.5 + 0.8 + 0 + 0) / 4)


def test_harmonic_and_geometric_mean_of_class_accuracies() -> None:
    assert harmonic_mean(np.array([0.5, 1.0])) == pytest.approx(2 / 3)
    assert geometric_mean(np.array([0.25, 1.0])) == pytest.approx(0.5)
    assert harmonic_mean(np.array([0.0, 1.0])) == geometric_mean(np.array([0.0, 1.0])) == 0


def test_top5_counts_the_five_best_and_needs_five_classes() -> None:
    scores = np.tile(np.arange(7.0), (7, 1))
    table = build_predictions(
        "x",
        scores,
        np.arange(7),
        np.arange(7),
        likelihood=True,
        selected_on_test=False,
        split_digest="s",
        train_counts=np.full(7, 30),
    )
    assert summarize(table, np.full(7, 30), STRICT)["top5"] == round(500 / 7, 2)
    assert summarize(table_with_accuracies([0.1] * 5), np.full(5, 30), STRICT)["top5"] == 100
    assert "top5" not in summarize(table_with_accuracies([0.1] * 4), np.full(4, 30), STRICT)


def test_summary_and_details_hold_every_measure_once() -> None:
    measures = summarize(table_with_accuracies(ACCURACIES), COUNTS, STRICT)
    assert not set(SUMMARY_KEYS) & set(DETAIL_KEYS)
    assert select_keys(measures, SUMMARY_KEYS) | select_keys(measures, DETAIL_KEYS) == measures
    assert not {"selected_on_test", "uncalibrated"} & measures.keys()


def test_evaluation_imports_no_torch() -> None:
    code = (
        "import sys, longtail.evaluation.metrics, longtail.evaluation.plot_tables, longtail.evaluation.report; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_worked_groups_of_the_bns_code():
    """Counts 600, 300, 100 with the limits 500 and 200; a class at a limit is medium."""
    counts = np.array([600, 300, 100])
    table = dataclasses.replace(
        predict(np.array([0, 1, 1, 1, 0, 2]), np.array([0, 0, 1, 1, 2, 2]), 3), train_counts=counts
    )
    found = summarize(table, counts, Shots(many_above=500, few_below=200))
    assert (found["many"], found["medium"], found["few"], found["all"]) == (50.0, 100.0, 50.0, 66.67)
    assert group_of(np.array([500, 200]), Shots(many_above=500, few_below=200)).tolist() == ["medium", "medium"]
    assert group_of(np.array([100, 20]), Shots()).tolist() == ["medium", "medium"]
