"""Training of the classifiers: the epoch kept, how rows are drawn, and resuming."""

from functools import partial

import numpy as np
import pytest
import torch

from longtail.core.errors import TrainingError
from longtail.methods.dlsa.head_training import macro_accuracy
from longtail.methods.dlsa.losses import (
    balanced_softmax_loss,
    log_prior,
)
from tests.unit.methods.dlsa.training import (
    CLASSES,
    COUNTS,
    DATA,
    JUDGES,
    TRAIN,
    Interrupted,
    interrupt,
    routed,
    same_bits,
    train_classifier,
)


def script(monkeypatch, *scores):
    """Let the judged accuracies be these, one after another."""
    left = list(scores)
    monkeypatch.setattr("longtail.methods.dlsa.head_training.macro_accuracy", lambda *a: left.pop(0))
    return left


@pytest.mark.parametrize(
    ("every", "scores", "kept"),
    [
        (1, [0.5, 0.4, 0.5, 0.6, 0.6, 0.2], 3),
        (1, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5], 5),
        (1, [0.9, 0.9, 0.1, 0.9, 0.1, 0.1], 0),
        (2, [0.1, 0.2, 0.3, 0.3], 4),
        (5, [0.0, 0.0], 0),
        (9, [0.1, 0.2], 5),
    ],
)
def test_first_of_the_best_epochs_is_kept_the_start_included(every, scores, kept, monkeypatch):
    left = script(monkeypatch, *scores)
    head, start, epoch, selected_on, history = train_classifier(eval_every=every, epochs=5)
    assert (epoch, selected_on, left) == (kept, "val", [])
    expected = start
    if kept:
        monkeypatch.setattr("longtail.methods.dlsa.head_training.macro_accuracy", lambda *a: 0.0)
        expected = train_classifier(epochs=kept, select_on="last")[0].state_dict()
    assert all(torch.equal(head.state_dict()[name], expected[name]) for name in expected)
    measured = [e for e in range(1, 6) if e % every == 0 or e == 5]
    accuracy = dict(zip(history["epoch"], history["val_accuracy"], strict=True))
    assert [e for e in accuracy if np.isfinite(accuracy[e])] == measured
    assert [accuracy[e] for e in measured] == scores[1:]


def test_select_on_last_keeps_the_last_epoch():
    head, start, epoch, selected_on, history = train_classifier(select_on="last")
    judged, *_ = train_classifier(judges={}, select_on="val")
    assert (epoch, selected_on) == (6, "last")
    assert same_bits(head, judged)
    assert history["loss"][-1] < history["loss"][0]
    assert not torch.equal(head.state_dict()["first.weight"], start["first.weight"])


def test_a_part_without_rows_of_the_route_chooses_nothing():
    elsewhere = {"val": routed(DATA["val"], route=np.full(len(DATA["val"][1]), 2))}
    _, _, epoch, selected_on, _ = train_classifier(judges=elsewhere)
    assert (epoch, selected_on) == (6, "last")


@pytest.mark.parametrize("select", ["val", "test"])
def test_the_part_named_chooses(select):
    parts = {"val": JUDGES["val"], "test": routed(DATA["test"])}
    *_, selected_on, history = train_classifier(judges=parts, select_on=select)
    assert selected_on == select
    assert f"{select}_accuracy" in history


def test_macro_accuracy_is_the_mean_over_the_classes_present():
    class Fixed:
        def __call__(self, x, z, r, route):
            return torch.eye(CLASSES)[x[:, 0].long()]

    guesses, y = np.array([0, 0, 1, 2, 2, 5]), np.array([0, 0, 0, 2, 2, 7])
    rows = routed((guesses[:, None].astype(np.float32), y))
    assert macro_accuracy(Fixed(), rows, torch.arange(6)) == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert macro_accuracy(Fixed(), rows, torch.tensor([0, 2])) == pytest.approx(0.5)


@pytest.mark.parametrize("loss", ["bsm", "ce"])
def test_one_epoch_of_one_batch_is_one_step_down_the_loss(loss):
    head, start, *_ = train_classifier(judges={}, epochs=1, batch_size=10_000, lr=0.1, loss=loss)
    x, y, r = TRAIN.x, TRAIN.y, TRAIN.prior[TRAIN.prior_row]
    logits = x @ start["first.weight"].T + start["first.bias"]
    shifted = logits + (torch.from_numpy(COUNTS).log().float() if loss == "bsm" else 0.0)
    gradient = (shifted.softmax(dim=1) - torch.eye(CLASSES)[y]) / len(y)
    expected = {
        "first.weight": start["first.weight"] - 0.1 * gradient.T @ x,
        "first.bias": start["first.bias"] - 0.1 * gradient.sum(dim=0),
        "second.1.weight": -0.1 * gradient.T @ torch.cat([x, r], dim=1),
        "second.1.bias": -0.1 * gradient.sum(dim=0),
    }
    for name, tensor in head.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=1e-4)


def test_only_rows_of_its_routes_train_a_head():
    route = np.where(np.arange(len(DATA["train"][1])) % 2, 1, 2)
    X, y = DATA["train"]
    mixed, *_ = train_classifier(routed((X, y), route), {}, routes=(2,), depth=1)
    other = X.copy()
    other[route == 1] += 100
    again, *_ = train_classifier(routed((other, y), route), {}, routes=(2,), depth=1)
    assert same_bits(mixed, again)


def test_training_a_shared_head_on_one_route_leaves_the_other_corrections():
    head, start, *_ = train_classifier(judges={}, routes=(1, 2), second_branch="random")
    for name, tensor in head.state_dict().items():
        assert torch.equal(tensor, start[name]) == name.startswith("second.2"), name


def seen_by_the_loss(monkeypatch):
    """The labels of every batch and the priors that the classifier's loss is given."""
    seen = []

    def spy(logits, labels, prior):
        seen.append((labels, prior))
        return balanced_softmax_loss(logits, labels, prior)

    monkeypatch.setattr("longtail.methods.dlsa.head_training.balanced_softmax_loss", spy)
    return seen


def test_shuffle_draws_every_row_once_an_epoch_in_another_order(monkeypatch):
    seen = seen_by_the_loss(monkeypatch)
    train_classifier(epochs=2, judges={})
    rows = len(DATA["train"][1])
    labels = torch.cat([labels for labels, _ in seen]).reshape(2, rows)
    for epoch in labels:
        np.testing.assert_array_equal(torch.bincount(epoch), COUNTS)
    assert not torch.equal(labels[0], labels[1])


def test_class_aware_draws_classes_evenly_also_where_one_is_missing(monkeypatch):
    seen = seen_by_the_loss(monkeypatch)
    X, y = DATA["train"]
    keep = y != 3
    train_classifier(routed((X[keep], y[keep])), {}, epochs=3, sampler="class_aware")
    drawn = torch.bincount(torch.cat([labels for labels, _ in seen]), minlength=CLASSES).numpy()
    assert drawn[3] == 0
    assert drawn.sum() == 3 * keep.sum()
    assert np.ptp(drawn[np.arange(CLASSES) != 3]) <= 3


def test_cross_entropy_has_no_prior_and_balanced_softmax_that_of_the_counts(monkeypatch):
    seen = seen_by_the_loss(monkeypatch)
    for loss in ("ce", "bsm"):
        train_classifier(epochs=1, judges={}, loss=loss, batch_size=10_000)
    assert (seen[0][1] == 0).all()
    torch.testing.assert_close(seen[1][1], log_prior(torch.from_numpy(COUNTS)).float())


def test_loss_that_is_not_finite_names_the_learning_rate():
    with pytest.raises(TrainingError, match=r"head: .*not finite.*dlsa\.lr"):
        train_classifier(lr=1e38)


def test_same_seed_gives_the_same_classifier_and_another_seed_does_not():
    one, again, other = (train_classifier(judges={}, seed=seed)[0] for seed in (0, 0, 1))
    assert same_bits(one, again)
    assert not same_bits(one, other)


@pytest.mark.parametrize("sampler", ["shuffle", "class_aware"])
@pytest.mark.parametrize("select", ["val", "last"])
def test_interrupted_head_ends_in_the_same_bits(select, sampler, store, monkeypatch):
    train = partial(train_classifier, select_on=select, sampler=sampler)
    whole, _, *expected = train()
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt(patch, "longtail.methods.dlsa.head_training.balanced_softmax_loss", 3 * -(-len(TRAIN.x) // 64) + 2)
        train(store=store())
    resumed, _, *found = train(store=store())
    assert same_bits(whole, resumed)
    assert found[:2] == expected[:2]
    np.testing.assert_equal(found[2], expected[2])


def test_finished_head_is_not_computed_again(store, monkeypatch):
    whole, _, *expected = train_classifier(store=store())
    for name in ("balanced_softmax_loss", "macro_accuracy"):
        monkeypatch.setattr(
            f"longtail.methods.dlsa.head_training.{name}", lambda *a: pytest.fail("it was computed again")
        )
    again, _, *found = train_classifier(store=store())
    assert same_bits(whole, again)
    assert found == expected
