"""Likeness of classes, and what accuracy goes with."""

import numpy as np
import pytest
from scipy.stats import rankdata

from longtail.evaluation.similarity import (
    centered_cosine,
    class_means,
    confusion,
    correlations,
    cosine_matrix,
    head_classes,
)


def test_class_means_and_cosines_of_worked_numbers():
    features = np.float32([[1, 0], [3, 0], [0, 2], [1, 1]])
    means = class_means(features, np.array([0, 0, 1, 2]), 4)
    assert means[:3].tolist() == [[2, 0], [0, 2], [1, 1]] and np.isnan(means[3]).all()
    cosine = cosine_matrix(means[:3])
    assert cosine[0, 1] == 0 and cosine[0, 2] == pytest.approx(np.sqrt(0.5)) and cosine[1, 1] == pytest.approx(1)


def test_centered_cosines_ignore_scale_and_offset():
    means = np.random.default_rng(0).normal(size=(6, 5))
    assert np.allclose(centered_cosine(means), centered_cosine(100 * means + 7))
    assert cosine_matrix(means + 100).min() > 0.99  # which hides the plain ones


def test_confusion_counts_images_of_a_class_by_prediction():
    assert confusion(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 0]), 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_heads_are_the_many_shot_classes_or_the_larger_half():
    counts = np.array([500, 300, 40, 5, 4])
    assert head_classes(counts, np.array(["many", "many", "medium", "few", "few"])).tolist() == [1, 1, 0, 0, 0]
    assert head_classes(counts, np.array(["many", "few", "few", "few", "few"])).tolist() == [1, 1, 0, 0, 0]
    assert head_classes(counts[::-1], np.array(["many"] * 5)).tolist() == [0, 0, 0, 1, 1]


def test_partial_correlation_is_that_of_the_residuals_of_the_ranks():
    rng = np.random.default_rng(1)
    count, noise = rng.normal(size=40), rng.normal(size=(2, 40))
    likeness = -0.5 * count + noise[0]
    accuracy = count - 0.3 * likeness + 0.5 * noise[1]
    found = correlations(accuracy, count, likeness)

    def residual(of: np.ndarray, on: np.ndarray) -> np.ndarray:
        of, on = rankdata(of), rankdata(on)
        return of - np.polyval(np.polyfit(on, of, 1), on)

    wanted = np.corrcoef(residual(accuracy, likeness), residual(count, likeness))[0, 1]
    assert found["count_given_similarity"].value == pytest.approx(wanted)
    wanted = np.corrcoef(residual(accuracy, count), residual(likeness, count))[0, 1]
    assert found["similarity_given_count"].value == pytest.approx(wanted)


def test_the_cause_of_the_accuracy_stands_out():
    rng = np.random.default_rng(2)
    count, likeness = rng.normal(size=(2, 60))
    by_count = correlations(count + 0.1 * rng.normal(size=60), count, likeness)
    assert by_count["count_given_similarity"].low > 0.8
    assert by_count["similarity_given_count"].low < 0 < by_count["similarity_given_count"].high
    by_likeness = correlations(-likeness + 0.1 * rng.normal(size=60), count, likeness)
    assert by_likeness["similarity_given_count"].high < -0.8


def test_order_and_monotone_transforms_change_nothing_and_constants_are_undefined():
    rng = np.random.default_rng(3)
    values = rng.normal(size=(3, 30))
    order = rng.permutation(30)
    first, second = correlations(*values), correlations(np.exp(values[0])[order], *(values[1:, order]))
    assert all(first[name].value == pytest.approx(second[name].value) for name in first)
    assert np.isnan(correlations(np.ones(30), values[1], values[2])["count"].value)


def test_an_interval_needs_classes_that_differ():
    """One good class of ten: resamples without it have no correlation, so neither has the interval."""
    rng = np.random.default_rng(4)
    found = correlations(np.array([1.0] + [0.0] * 9), *rng.normal(size=(2, 10)))["count"]
    assert np.isfinite(found.value) and np.isnan(found.low) and np.isnan(found.high)
