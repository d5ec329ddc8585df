"""tau-normalization, and the choice of tau."""

import warnings

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from longtail.core.errors import ConfigError, DataError
from longtail.methods.heads import Joint, LinearHead, TauNorm
from longtail.methods.heads.tau import hits_over_grid, tau_normalized
from tests.unit.methods.heads.helpers import B, W, X, Y, long_tail


@pytest.mark.parametrize(
    ("tau", "row_1", "row_2", "labels"),
    [
        (0.0, [4.6, 2.0, -0.26], [3.4, 0.2, 1.15], [0, 0, 0, 2]),
        (0.5, [2.0572, 1.4142, -0.2280], [1.5205, 0.1414, 1.0086], [0, 0, 0, 2]),
        (1.0, [0.92, 1.0, -0.2], [0.68, 0.1, 0.8846], [1, 2, 1, 2]),
        (2.0, [0.184, 0.5, -0.1538], [0.136, 0.05, 0.6805], [1, 2, 1, 2]),
    ],
)
def test_tau_norm_has_the_worked_values(tau, row_1, row_2, labels):
    fitted = TauNorm(tau, head=(W, B)).fit(X, Y)
    np.testing.assert_allclose(fitted.scores(X)[:2], [row_1, row_2], atol=5e-5)
    assert fitted.predict(X).tolist() == labels
    assert (fitted.tau_, fitted.selected_on_, fitted.bias_) == (tau, "fixed", None)


def test_tau_zero_leaves_the_weight_bit_for_bit():
    weight = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    assert TauNorm(0.0, head=(weight, None)).fit(X, Y).weight_.tobytes() == weight.tobytes()


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 1.7])
def test_tau_norm_row_norms_are_powers_of_the_old_ones(tau):
    norms = np.linalg.norm(tau_normalized(LinearHead(W), tau), axis=1)
    np.testing.assert_allclose(norms, np.array([5.0, 2.0, 1.3]) ** (1 - tau))


@pytest.mark.parametrize("tau", [0.0, 0.3, 1.0, 1.7])
def test_tau_norm_ignores_a_common_factor_of_the_weight(tau):
    rows = np.random.default_rng(0).normal(size=(200, 2))
    one, many = (TauNorm(tau, head=(factor * W, B)).fit(X, Y).predict(rows) for factor in (1.0, 37.0))
    np.testing.assert_array_equal(one, many)


def test_tau_one_ignores_the_scale_of_one_row_and_ranks_like_the_cosine():
    rows = np.random.default_rng(0).normal(size=(50, 2))
    plain = TauNorm(1.0, head=(W, B)).fit(X, Y)
    scaled = TauNorm(1.0, head=(W * [[1.0], [9.0], [1.0]], B)).fit(X, Y)
    np.testing.assert_allclose(scaled.scores(rows), plain.scores(rows))
    cosine = normalize(rows) @ normalize(W).T
    np.testing.assert_array_equal(plain.scores(rows).argsort(axis=1), cosine.argsort(axis=1))


def test_tau_norm_leaves_zero_rows_and_warns():
    weight = W * [[1.0], [0.0], [1.0]]
    with pytest.warns(UserWarning, match=r"zero rows.*classes \[1\]"):
        fitted = TauNorm(1.0, head=(weight, None)).fit(X, Y)
    assert np.isfinite(fitted.scores(X)).all()
    np.testing.assert_array_equal(fitted.weight_[1], 0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(TauNorm(0.0, head=(weight, None)).fit(X, Y).weight_, weight)


def test_tau_selection_is_the_smallest_of_the_best_macro_accuracy_on_val():
    fitted = TauNorm(head=(W, B)).fit(X, Y, X, [1, 2, 1, 2])
    assert fitted.tau_grid_.tolist() == [round(0.1 * i, 1) for i in range(21)]
    right = [np.mean(TauNorm(t, head=(W, B)).fit(X, Y).predict(X) == [1, 2, 1, 2]) for t in fitted.tau_grid_]
    assert fitted.tau_ == fitted.tau_grid_[int(np.argmax(right))] == 1.0
    assert fitted.selected_on_ == "val"
    np.testing.assert_allclose(fitted.weight_, tau_normalized(LinearHead(W), 1.0))


def test_tau_curve_is_that_of_one_product_per_tau():
    stream = np.random.default_rng(0)
    head = LinearHead(stream.normal(size=(6, 5)) * np.linspace(0.2, 3, 6)[:, None])
    rows, y = stream.normal(size=(300, 5)), stream.integers(0, 6, 300)
    grid = np.arange(21) / 10
    hits = hits_over_grid(head, rows, y, grid)
    for t, tau in enumerate(grid):
        correct = (rows @ tau_normalized(head, tau).T).argmax(axis=1) == y
        np.testing.assert_array_equal(hits[t], [correct[y == c].sum() for c in range(6)])


def test_tau_macro_counts_only_the_classes_in_val():
    fitted = TauNorm(head=(W, B)).fit(X, Y, X[:3], [1, 2, 1])
    assert np.isnan(fitted.class_accuracy_[:, 0]).all()
    np.testing.assert_allclose(fitted.macro_, fitted.class_accuracy_[:, 1:].mean(axis=1))
    assert fitted.macro_.max() == 1.0


def test_tau_is_chosen_by_macro_and_not_by_overall_accuracy():
    head = LinearHead(np.array([[4.0, 0.0], [0.4, 1.0]]))
    rows = np.array([[1.0, 0.5]] * 9 + [[0.5, 1.2]])  # class 1 needs a large tau, class 0 many times a small one
    y = np.array([0] * 9 + [1])
    fitted = TauNorm(head=head).fit(rows, y, rows, y)
    assert fitted.macro_[fitted.tau_grid_.tolist().index(fitted.tau_)] == 1.0
    assert fitted.macro_[0] == 0.5


def test_tau_without_val_is_judged_by_heads_that_have_not_seen_the_row(monkeypatch):
    rows, y, *_, counts = long_tail(0)
    judged = []

    def spy(head, X, y, grid):
        judged.append((head, X, y))
        return hits_over_grid(head, X, y, grid)

    monkeypatch.setattr("longtail.methods.heads.tau.hits_over_grid", spy)
    fitted = TauNorm().fit(rows, y)
    assert fitted.selected_on_ == "train_slice"
    np.testing.assert_array_equal(np.bincount(np.concatenate([labels for *_, labels in judged])), counts)
    assert len({row.tobytes() for _, block, _ in judged for row in block}) == len(rows)
    assert len({head.weight.tobytes() for head, *_ in judged}) == len(judged) == 5
    start = Joint().fit(rows, y).head_
    np.testing.assert_array_equal(fitted.head_.weight, tau_normalized(start, fitted.tau_))


def test_head_of_a_trained_backbone_gets_tau_1_without_val():
    rows, y, *_ = long_tail(0)
    given = np.random.default_rng(1).normal(size=(10, 16))
    fitted = TauNorm(head=(given, None)).fit(rows, y)
    assert (fitted.tau_, fitted.selected_on_) == (1.0, "fixed")
    np.testing.assert_array_equal(fitted.weight_, tau_normalized(LinearHead(given), 1.0))


def test_tau_folds_follow_the_seed():
    rows, y, *_ = long_tail(0)
    curves = [TauNorm(random_state=seed).fit(rows, y).class_accuracy_ for seed in (0, 0, 1)]
    np.testing.assert_array_equal(curves[0], curves[1])
    assert not np.array_equal(curves[0], curves[2])


def test_tau_is_one_where_nothing_can_be_held_out():
    fitted = TauNorm(head=(W, B)).fit(X, Y)
    assert (fitted.tau_, fitted.selected_on_, fitted.tau_grid_.tolist()) == (1.0, "fixed", [1.0])


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"tau": "best"}, r"tau\.value must be a finite number or auto, got best$"),
        ({"tau": -0.1}, r"tau\.value must be at least 0 .*, got -0\.1$"),
        ({"grid_step": 0.0}, r"tau\.grid_step must be above 0 .*, got 0$"),
    ],
)
def test_tau_values_out_of_range_are_refused(arguments, reason):
    with pytest.raises(ConfigError, match=reason):
        TauNorm(**arguments).fit(X, Y)


def test_val_rows_must_come_with_known_labels():
    with pytest.raises(ConfigError, match="must be given together"):
        TauNorm(head=(W, B)).fit(X, Y, X)
    with pytest.raises(DataError, match="classes that y does not: 7"):
        TauNorm(head=(W, B)).fit(X, Y, X, [0, 1, 7, 2])
