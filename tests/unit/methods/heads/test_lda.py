"""Shrinkage LDA."""

import numpy as np
import pytest

from longtail.methods.heads import LDA
from longtail.methods.heads.lda import CORRECTIONS, SHRINKAGES


def by_hand(X, y, rows, shrinkage, correction, prior):
    """The scores of the module's formula, with an inverse."""
    counts = np.bincount(y)
    means = np.array([X[y == c].mean(axis=0) for c in range(len(counts))])
    within = (X - means[y]).T @ (X - means[y]) / (len(X) - len(counts))
    typical = np.trace(within) / len(within)
    inverse = np.linalg.inv((1 - shrinkage) * within + shrinkage * typical * np.eye(len(within)))
    distance = np.array([np.einsum("nd,de,ne->n", rows - m, inverse, rows - m) for m in means]).T
    scores = (correction * np.trace(inverse @ within) / counts - distance) / 2
    return scores + (np.log(counts / counts.sum()) if prior == "train" else 0)


@pytest.mark.parametrize("prior", ["uniform", "train"])
@pytest.mark.parametrize(("shrinkage", "correction"), [(0.3, 0.0), (0.01, 0.5), (1.0, 1.0)])
def test_scores_are_those_of_the_shrunken_covariance(tail, shrinkage, correction, prior):
    X, y, rows, _, _ = tail
    fitted = LDA(shrinkage, correction, prior).fit(X, y)
    expected = by_hand(X, y, rows, shrinkage, correction, prior)
    found = fitted.scores(rows)
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-8)
    assert (fitted.shrinkage_, fitted.correction_, fitted.selected_on_) == (shrinkage, correction, "fixed")


def test_choice_is_the_best_of_the_grid_on_validation_rows(tail):
    X, y, rows, labels, _ = tail
    fitted = LDA().fit(X, y, rows[::2], labels[::2])
    chosen = np.mean(fitted.predict(rows[::2]) == labels[::2])
    assert fitted.selected_on_ == "val"
    best = max(np.mean(LDA(s, c).fit(X, y).predict(rows[::2]) == labels[::2]) for s in SHRINKAGES for c in CORRECTIONS)
    assert best - 0.001 <= chosen <= best


def test_explicit_value_stays_while_the_other_is_chosen(tail):
    X, y = tail[:2]
    assert LDA(shrinkage=0.25).fit(X, y).shrinkage_ == 0.25
    assert LDA(correction=0.0).fit(X, y).correction_ == 0.0


def test_correction_gives_small_classes_their_rows_back():
    stream = np.random.default_rng(0)
    centers, y = stream.normal(scale=0.25, size=(2, 50)), np.repeat([0, 1], [500, 5])
    rows = centers[np.repeat([0, 1], 500)] + stream.normal(size=(1000, 50))
    X = centers[y] + stream.normal(size=(505, 50))
    plain, corrected = (np.mean(LDA(0.1, c).fit(X, y).predict(rows)[500:] == 1) for c in (0, 1))
    assert corrected > plain + 0.1


def test_more_features_than_rows_and_a_constant_feature():
    stream = np.random.default_rng(0)
    y = np.repeat([0, 1], 6)
    X = stream.normal(size=(12, 40)) + 3 * y[:, None]
    X[:, 0] = 7.0
    assert (LDA().fit(X, y).predict(X) == y).all()


def test_rows_that_equal_their_class_means_need_no_covariance():
    X = np.repeat(np.eye(3), 4, axis=0)
    y = np.repeat([0, 1, 2], 4)
    assert (LDA().fit(X, y).predict(X) == y).all()


def test_without_rows_to_hold_out_both_values_are_a_half():
    fitted = LDA().fit(np.eye(4), np.arange(4))
    assert (fitted.shrinkage_, fitted.correction_, fitted.selected_on_) == (0.5, 0.5, "fixed")
