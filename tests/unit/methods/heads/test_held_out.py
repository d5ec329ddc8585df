"""Rows that judge the choices of a head."""

import numpy as np

from longtail.methods.heads.held_out import best_position, class_accuracy, held_out_parts

Y = np.repeat([0, 1, 2, 3], [30, 9, 2, 1])
X = np.arange(len(Y), dtype=float)[:, None]


def test_with_few_rows_every_row_judges_once_but_the_only_one_of_a_class():
    parts = list(held_out_parts(X, Y, None, None, 0, "test"))
    assert len(parts) == 5
    judging = np.concatenate([rows[:, 0] for _, (rows, _) in parts])
    assert sorted(judging) == X[Y < 3, 0].tolist()
    for kept, (rows, labels) in parts:
        assert set(np.flatnonzero(~kept)) == set(rows[:, 0].astype(int))
        assert (Y[rows[:, 0].astype(int)] == labels).all()
        assert np.unique(Y[kept]).tolist() == [0, 1, 2, 3]


def test_with_many_rows_one_fold_judges(monkeypatch):
    monkeypatch.setattr("longtail.methods.heads.held_out.FEW_ROWS", 10)
    ((kept, (_, labels)),) = held_out_parts(X, Y, None, None, 0, "test")
    assert np.bincount(labels).tolist() == [6, 2, 1] and kept.sum() == len(Y) - 9


def test_validation_rows_judge_a_fit_on_all_rows():
    ((kept, (rows, labels)),) = held_out_parts(X, Y, (X[:3], Y[:3]), None, 0, "test")
    assert kept.all()
    np.testing.assert_array_equal(rows, X[:3])
    np.testing.assert_array_equal(labels, Y[:3])


def test_large_classes_of_judging_rows_are_cut_to_the_budget():
    ((_, (rows, labels)),) = held_out_parts(X, Y, (X, Y), 15, 0, "test")
    assert np.bincount(labels).tolist() == [6, 6, 2, 1]
    assert (Y[rows[:, 0].astype(int)] == labels).all()


def test_nothing_can_be_held_out_of_classes_with_one_row():
    assert not list(held_out_parts(X[:3], np.arange(3), None, None, 0, "test"))


def test_class_accuracy_counts_each_present_class_alike():
    labels = np.array([0, 0, 0, 3])
    predicted = np.array([[0, 0, 1, 3], [0, 1, 1, 0]])
    np.testing.assert_allclose(class_accuracy(predicted, labels), [(2 / 3 + 1) / 2, 1 / 6])


def test_best_position_is_the_last_that_is_as_good_as_the_best():
    assert best_position(np.array([0.5, 0.7, 0.6995, 0.6])) == (2,)
    assert best_position(np.array([[0.1, 0.9], [0.9, 0.2]])) == (1, 0)
    assert best_position(np.array([0.5, 0.7, 0.69]), 0.02) == (2,)
