"""The base head: softmax regression on standardized features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from longtail.core.errors import ConfigError, DataError
from longtail.core.head import StandardizedHead
from longtail.methods.heads import Joint, LogitAdjustment, SoftmaxRegression
from longtail.methods.heads.held_out import folds, within_budget
from longtail.methods.heads.softmax_choice import (
    _class_mean,
    _standard_error,
    choose_l2,
    cross_fits,
    out_of_fold_scores,
)
from longtail.methods.heads.softmax_regression import L2_GRID
from longtail.methods.heads.softmax_solver import PrincipalRows
from longtail.methods.heads.standardization import standardization
from tests.unit.methods.heads.helpers import long_tail

CPU = torch.device("cpu")


def macro(head, rows, y):
    predicted = head.predict(rows)
    return np.mean([(predicted[y == c] == c).mean() for c in np.unique(y)])


@pytest.mark.parametrize("l2", [0.3, 0.01])
def test_head_minimizes_the_documented_loss(l2, tail):
    rows, y, rows_test, *_ = tail
    ours = SoftmaxRegression(l2=l2).fit(rows, y)
    scaler = StandardScaler().fit(rows)
    reference = LogisticRegression(C=1 / (l2 * len(y)), tol=1e-8, max_iter=2000).fit(scaler.transform(rows), y)
    expected = reference.predict_proba(scaler.transform(rows_test))
    np.testing.assert_allclose(ours.predict_proba(rows_test), expected, atol=0.01)


def test_two_classes_have_the_loss_of_many(tail):
    rows, y, *_ = tail
    rows, y = rows[y < 2], y[y < 2]
    head = SoftmaxRegression(l2=0.01).fit(rows, y).head_
    weight, bias = (torch.tensor(a, requires_grad=True) for a in (head.weight, head.bias))
    logits = torch.from_numpy(head.inputs(rows)) @ weight.T + bias
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)) + 0.005 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 2e-3 and bias.grad.abs().max() < 2e-3


def test_uniform_prior_is_the_head_trained_by_balanced_softmax(tail):
    rows, y, *_, counts = tail
    head = SoftmaxRegression(prior="uniform", l2=0.01).fit(rows, y).head_
    weight, bias = (torch.tensor(a, requires_grad=True) for a in (head.weight, head.bias))
    logits = torch.from_numpy(head.inputs(rows)) @ weight.T + bias + torch.from_numpy(np.log(counts / counts.sum()))
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y)) + 0.005 * weight.square().sum()
    loss.backward()
    assert weight.grad.abs().max() < 2e-3 and bias.grad.abs().max() < 2e-3


def test_logit_adjustment_of_either_prior_is_the_head_for_a_uniform_one(tail):
    rows, y, rows_test, *_ = tail
    heads = [SoftmaxRegression(prior=prior, l2=0.01).fit(rows, y).head_ for prior in ("train", "uniform")]
    adjusted = [LogitAdjustment(head=head).fit(rows, y).scores(rows_test) for head in heads]
    np.testing.assert_allclose(adjusted[0], adjusted[1], atol=1e-9)
    np.testing.assert_allclose(adjusted[1], heads[1].scores(rows_test), atol=1e-9)


def test_chosen_strength_has_the_best_macro_accuracy_of_the_path(tail):
    rows, y, *_ = tail
    fitted = SoftmaxRegression().fit(rows, y)
    assert fitted.selected_on_ == "train_slice"
    assert fitted.macro_[fitted.l2_grid_ == fitted.l2_] >= fitted.macro_.max() - 0.001
    assert fitted.l2_ == fitted.head_.l2
    assert (np.diff(fitted.l2_grid_) < 0).all()


def test_validation_rows_choose_the_strength(tail):
    rows, y, rows_test, y_test, _ = tail
    chosen = SoftmaxRegression(prior="uniform").fit(rows, y, rows_test, y_test)
    assert chosen.selected_on_ == "val"
    for l2 in (1.0, 1e-4):
        other = SoftmaxRegression(prior="uniform", l2=l2).fit(rows, y)
        assert macro(chosen, rows_test, y_test) >= macro(other, rows_test, y_test) - 0.01


def test_all_rows_are_used_by_the_final_fit(tail):
    rows, y, rows_test, *_ = tail
    chosen = SoftmaxRegression().fit(rows, y)
    refitted = SoftmaxRegression(l2=chosen.l2_).fit(rows, y)
    np.testing.assert_allclose(chosen.scores(rows_test), refitted.scores(rows_test), atol=0.1)


def test_nothing_is_chosen_where_no_class_has_two_rows():
    fitted = SoftmaxRegression().fit(np.eye(3), [0, 1, 2])
    assert (fitted.selected_on_, fitted.l2_) == ("fixed", 0.01)
    assert fitted.predict(np.eye(3)).tolist() == [0, 1, 2]


def test_feature_that_hardly_varies_has_no_say(tail):
    rows, y, rows_test, *_ = tail
    noise = np.random.default_rng(0).normal(size=(len(rows), 2)) * [0, 1e-9]
    wide = np.hstack([rows, 1.0 + noise])
    plain, more = SoftmaxRegression().fit(rows, y), SoftmaxRegression().fit(wide, y)
    test = np.hstack([rows_test, np.full((len(rows_test), 2), 1.0 + 1e-6)])
    np.testing.assert_allclose(more.scores(test), plain.scores(rows_test), atol=0.05)


def test_constant_features_give_the_class_shares():
    y = np.repeat([0, 1], [30, 10])
    fitted = SoftmaxRegression().fit(np.ones((40, 3)), y)
    np.testing.assert_allclose(fitted.predict_proba(np.ones((1, 3))), [[0.75, 0.25]], atol=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l2": 0}, r"softmax_regression\.l2 must be above 0, got 0"),
        ({"l2": "strong"}, r"softmax_regression\.l2 must be a finite number or auto, got strong"),
        ({"prior": "test"}, r"softmax_regression\.prior must be one of train, uniform, got test"),
    ],
)
def test_values_out_of_range_are_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        SoftmaxRegression(**arguments).fit(np.eye(3), [0, 1, 1])


def test_standardized_head_is_the_same_on_raw_features(tail):
    rows, y, rows_test, *_ = tail
    head = Joint().fit(rows, y).head_
    assert isinstance(head, StandardizedHead)
    np.testing.assert_allclose(head.on_raw().scores(rows_test), head.scores(rows_test), atol=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"center": np.zeros(2)}, "center must be"),
        ({"spread": np.zeros(3)}, "spread must be above 0"),
        ({"prior": "test"}, "prior must be one of"),
    ],
)
def test_malformed_standardized_head_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        StandardizedHead(np.ones((2, 3)), **{"center": np.zeros(3), "spread": np.ones(3)} | changes)


def test_standardization_is_exact_under_a_large_offset():
    rows = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    center, spread = standardization(rows + np.float32(1000))
    np.testing.assert_allclose(spread, rows.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(center, 1000 + rows.mean(axis=0), atol=1e-4)


def test_folds_hold_out_each_row_once_and_never_a_whole_class():
    y = np.repeat([0, 1, 2, 3], [1, 2, 7, 50])
    fold = folds(y, 0, "test")
    assert fold[0] == -1 and (fold[1:] >= 0).all()
    for number in range(5):
        assert set(y[fold != number]) == {0, 1, 2, 3}
    assert np.bincount(fold[y == 3]).tolist() == [10] * 5


def test_rows_within_a_budget_cut_large_classes_to_one_size():
    y = np.repeat([0, 1, 2], [100, 30, 5])
    kept = within_budget(y, 60, 0)
    assert np.bincount(y[kept]).tolist() == [27, 27, 5]
    assert within_budget(y, 135, 0).all()


def test_strength_chosen_on_a_part_of_the_rows_is_near_that_of_all(tail, monkeypatch):
    rows, y, *_ = tail
    whole = SoftmaxRegression().fit(rows, y)
    monkeypatch.setattr("longtail.methods.heads.softmax_choice.SELECTION_ROWS", 400)
    part = SoftmaxRegression().fit(rows, y)
    assert 0.05 < part.l2_ / whole.l2_ < 20
    np.testing.assert_allclose(SoftmaxRegression(l2=part.l2_).fit(rows, y).scores(rows), part.scores(rows), atol=0.1)


def test_fewer_principal_axes_choose_about_the_same(monkeypatch):
    rows, y, rows_test, y_test, _ = long_tail(1)
    whole = SoftmaxRegression(prior="uniform").fit(rows, y)
    monkeypatch.setattr("longtail.methods.heads.softmax_choice.REDUCED", 10)
    reduced = SoftmaxRegression(prior="uniform").fit(rows, y)
    assert abs(macro(reduced, rows_test, y_test) - macro(whole, rows_test, y_test)) < 0.02


def test_out_of_fold_scores_are_those_of_heads_that_have_not_seen_the_row(tail):
    rows, y, *_ = tail
    head = Joint().fit(rows, y).head_
    scores = out_of_fold_scores(rows, y, head, 0, CPU)
    seen = np.zeros(len(y), int)
    for held_out, fitted in cross_fits(rows, y, head, 0, CPU):
        seen += held_out
        np.testing.assert_allclose(scores[held_out], fitted.scores(rows[held_out]))
        again = SoftmaxRegression(l2=head.l2).fit(rows[~held_out], y[~held_out])
        np.testing.assert_allclose(fitted.scores(rows[held_out]), again.scores(rows[held_out]), atol=0.1)
    assert (seen == 1).all()
    own = head.scores(rows)
    assert (scores.argmax(axis=1) == y).mean() < (own.argmax(axis=1) == y).mean()


def test_joint_takes_prior_and_strength_of_a_base_head_and_refuses_them_otherwise(tail):
    rows, y, rows_test, *_ = tail
    base = SoftmaxRegression().fit(rows, y)
    uniform = Joint(head=base.head_, prior="uniform").fit(rows, y)
    np.testing.assert_allclose(
        uniform.scores(rows_test), LogitAdjustment(head=base.head_).fit(rows, y).scores(rows_test)
    )
    stronger = Joint(head=base.head_, l2=0.5).fit(rows, y)
    np.testing.assert_array_equal(stronger.weight_, SoftmaxRegression(l2=0.5).fit(rows, y).weight_)
    assert Joint(head=base.head_).fit(rows, y).head_ is base.head_
    with pytest.raises(ConfigError, match=r"joint\.l2 must be auto with a head that is no base head, got 0\.5"):
        Joint(head=(base.weight_, base.bias_), l2=0.5).fit(rows, y)


def test_likelihood_chooses_where_every_held_out_row_is_right():
    stream = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [60, 20, 10])
    rows = 8.0 * np.eye(3)[y] + 0.1 * stream.normal(size=(90, 3))
    fitted = SoftmaxRegression().fit(rows, y)
    assert (fitted.macro_ == 1).all() and len(fitted.macro_) == len(L2_GRID)
    assert fitted.l2_ == L2_GRID[-1]  # of separable classes, the weakest is the most likely


@pytest.mark.parametrize("gained, lost, chosen", [(6, 4, 0.1), (9, 1, 0.01)])
def test_a_lead_of_less_than_a_standard_error_does_not_outweigh_the_likelihood(gained, lost, chosen, tail, monkeypatch):
    """From 0.1 to 0.01 one row each of ``gained`` small classes becomes right and of ``lost`` wrong, and the likelihood
    falls."""
    labels = np.repeat(np.arange(20), [50] * 10 + [2] * 10)
    rare = 500 + 2 * np.arange(10)
    right = {0.1: np.ones(len(labels), bool), 0.01: np.ones(len(labels), bool)}
    right[0.1][rare[:gained]] = False
    right[0.01][rare[gained:]] = False
    assert _standard_error(right[0.1] != right[0.01], labels) == pytest.approx(np.sqrt(10 * 0.5**2) / 20)
    macros = [_class_mean(right[l2], labels) for l2 in (0.1, 0.01)]
    assert macros == [pytest.approx(1 - gained * 0.5 / 20), pytest.approx(1 - lost * 0.5 / 20)]

    class Judge:
        def __init__(self, *arguments: object) -> None:
            self.labels = labels

        def judge(self, l2: float) -> tuple[np.ndarray, np.ndarray]:
            return right[l2], np.full(len(labels), -1.0 if l2 == 0.1 else -2.0)

        def for_all_rows(self) -> None:
            return None

    monkeypatch.setattr("longtail.methods.heads.softmax_choice._Judge", Judge)
    rows, y, *_ = tail
    found = choose_l2(PrincipalRows(rows, y, int(y.max()) + 1, CPU), (rows, y), 0, (0.1, 0.01), 2)
    assert found.l2 == chosen and found.macro.tolist() == macros


def test_prior_of_a_stored_head_is_never_subtracted_twice(tail):
    rows, y, rows_test, *_ = tail
    once = LogitAdjustment().fit(rows, y)
    assert once.head_.prior == "uniform"
    np.testing.assert_allclose(
        LogitAdjustment(head=once.head_).fit(rows, y).scores(rows_test), once.scores(rows_test), atol=1e-9
    )
    half = LogitAdjustment(adjustment=0.5).fit(rows, y).head_
    assert half.prior == "other" and half.with_prior("uniform", np.full(10, 0.1)) is half
