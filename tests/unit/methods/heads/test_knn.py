"""k nearest neighbors."""

import warnings

import numpy as np
import pytest

from longtail.core.errors import DataError
from longtail.core.head import Neighbors
from longtail.methods.heads import KNN


def by_hand(X, y, rows, k, temperature, prior):
    """Log vote shares, one row at a time."""
    counts, scores = np.bincount(y), []
    unit = (X - X.mean(axis=0)) / X.std(axis=0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    for row in (rows - X.mean(axis=0)) / X.std(axis=0):
        cosine = unit @ row / np.linalg.norm(row)
        votes = np.zeros(len(counts))
        for i in np.argsort(-cosine)[:k]:
            votes[y[i]] += np.exp(cosine[i] / temperature) / (counts[y[i]] if prior == "uniform" else 1)
        scores.append(np.log((k * votes / votes.sum() + 1 / len(counts)) / (k + 1)))
    return np.array(scores)


@pytest.mark.parametrize("prior", ["uniform", "train"])
@pytest.mark.parametrize("k", [1, 7, 100_000])
def test_scores_are_the_vote_shares_of_the_nearest_rows(tail, k, prior):
    X, y, rows, _, _ = tail
    fitted = KNN(k=k, temperature=0.1, prior=prior).fit(X, y)
    assert (fitted.k_, fitted.temperature_, fitted.selected_on_) == (min(k, len(X)), 0.1, "fixed")
    np.testing.assert_allclose(fitted.scores(rows[:50]), by_hand(X, y, rows[:50], fitted.k_, 0.1, prior), atol=1e-9)


def test_balanced_votes_find_small_classes(tail):
    X, y, rows, labels, _ = tail
    small = labels >= 7
    uniform, train = (KNN(k=50, temperature=0.2, prior=p).fit(X, y).predict(rows[small]) for p in ("uniform", "train"))
    assert np.mean(uniform == labels[small]) > np.mean(train == labels[small]) + 0.1


def test_k_and_temperature_are_the_best_on_validation_rows(tail):
    X, y, rows, labels, _ = tail
    fitted = KNN().fit(X, y, rows[::2], labels[::2])
    assert fitted.selected_on_ == "val"
    chosen = np.mean(fitted.predict(rows[::2]) == labels[::2])
    for k in (1, 20, 200):
        for temperature in (0.02, 0.2):
            other = KNN(k=k, temperature=temperature).fit(X, y).predict(rows[::2])
            assert chosen >= np.mean(other == labels[::2]) - 0.0011


def test_explicit_value_stays_while_the_other_is_chosen(tail):
    X, y = tail[:2]
    assert KNN(k=5).fit(X, y).k_ == 5
    assert KNN(temperature=0.3).fit(X, y).temperature_ == 0.3


def test_held_out_rows_are_neighbors_again(tail):
    X, y = tail[:2]
    fitted = KNN().fit(X, y)
    assert fitted.selected_on_ == "train_slice"
    assert fitted.head_.rows.shape == X.shape


def test_without_rows_to_hold_out_the_documented_values_are_used():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn's, about the many classes
        fitted = KNN().fit(np.eye(30), np.arange(30))
    assert (fitted.k_, fitted.temperature_, fitted.selected_on_) == (20, 0.1, "fixed")


def test_blocks_bound_the_similarities_in_memory(tail, monkeypatch):
    X, y, rows, _, _ = tail
    fitted = KNN(k=9, temperature=0.1).fit(X, y)
    whole = fitted.scores(rows)
    monkeypatch.setattr("longtail.core.head._SIMILARITY_BYTES", 16 * len(X) * 7)
    np.testing.assert_allclose(fitted.scores(rows), whole, atol=1e-12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"k": 4}, "k must be from 1 to the 3 rows"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"labels": np.array([0, 2, 2])}, "every class present"),
        ({"labels": np.array([0, 1])}, "rows and labels must be"),
        ({"spread": np.zeros(2)}, "spread above 0"),
        ({"prior": "flat"}, "prior must be one of train, uniform"),
    ],
)
def test_malformed_neighbors_are_refused(changed, message):
    parts = {
        "rows": np.ones((3, 2)), "labels": np.array([0, 1, 1]), "center": np.zeros(2), "spread": np.ones(2),
        "k": 2, "temperature": 0.1,
    }  # fmt: skip
    Neighbors(**parts)
    with pytest.raises(DataError, match=message):
        Neighbors(**parts | changed)
