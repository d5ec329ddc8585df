"""What the heads of label over-smoothing, weight balancing and LIFT share: training, choice of epoch and setting."""

import numpy as np
import pytest
import torch

from longtail.core.errors import ConfigError
from longtail.methods.heads import CRT, LOS, Cosine, MaxNorm
from longtail.methods.heads.gradient.row_loss import RowLoss
from longtail.methods.heads.gradient.scorers import CosineScorer
from longtail.methods.heads.gradient.task import RowsTask
from longtail.train.checkpointing import CheckpointStore

HEADS = pytest.mark.parametrize("kind", [LOS, MaxNorm, Cosine])


def logits_and_classes(seed=0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(12, 5, generator=stream, dtype=torch.float64), torch.randint(5, (12, 1), generator=stream)


@pytest.mark.parametrize("smoothing", [0.0, 0.3, 0.98])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shifted", [False, True])
def test_loss_and_gradient_are_those_of_torch(smoothing, weighted, shifted):
    logits, y = logits_and_classes()
    weights = torch.linspace(0.5, 3, 5, dtype=torch.float64) if weighted else None
    offset = torch.linspace(-2, 1, 5, dtype=torch.float64) if shifted else None
    loss, gradient = RowLoss(smoothing, offset, weights)(logits, y)
    logits.requires_grad_()
    rows = torch.nn.functional.cross_entropy(
        logits + (0 if offset is None else offset), y[:, 0], label_smoothing=smoothing, reduction="none"
    )
    expected = (rows if weights is None else rows * weights[y[:, 0]]).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient / 12, torch.autograd.grad(expected, logits)[0])


def test_gradient_of_the_cosine_is_that_of_torch():
    stream = torch.Generator().manual_seed(0)
    weight, rows, gradient = (
        torch.randn(size, generator=stream, dtype=torch.float64) for size in [(3, 4), (6, 4), (6, 3)]
    )
    scorer = CosineScorer(weight, 7.0)
    logits = scorer.logits(rows)
    into = torch.ones(3, 4, dtype=torch.float64)
    scorer.add_gradients(rows, gradient, [into], 0.5)
    free = weight.clone().requires_grad_()
    expected = 7.0 * rows @ torch.nn.functional.normalize(free).T
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(into, 1 + 0.5 * torch.autograd.grad(expected, free, gradient)[0])


@HEADS
def test_default_is_nearly_as_good_on_every_class_as_the_centers_allow(tail, kind):
    X, y, rows, labels, _ = tail
    correct = kind().fit(X, y).predict(rows) == labels
    assert correct.mean() > 0.85
    assert correct[labels >= 7].mean() > 0.75


@HEADS
def test_epoch_chosen_on_held_out_rows_is_trained_on_all_rows(tail, kind):
    X, y = tail[:2]
    fitted = kind(epochs=4).fit(X, y)
    assert fitted.selected_on_ == "train_slice"
    assert 1 <= fitted.selected_epoch_ == len(fitted.history_["epoch"]) <= 4
    assert "val_macro" not in fitted.history_


@HEADS
def test_epoch_and_setting_are_the_best_on_validation_rows(tail, kind):
    X, y, rows, labels, _ = tail
    fitted = kind(epochs=4).fit(X, y, rows, labels)
    assert fitted.selected_on_ == "val"
    assert fitted.selected_epoch_ == np.argmax(fitted.history_["val_macro"]) + 1
    assert np.mean(fitted.predict(rows) == labels) == pytest.approx(max(fitted.history_["val_macro"]))


@HEADS
def test_explicit_settings_leave_nothing_to_choose(tail, kind, monkeypatch):
    X, y = tail[:2]
    setting = {LOS: {}, MaxNorm: {"cap": 0.5}, Cosine: {"scale": 25}}[kind]
    monkeypatch.setattr(
        "longtail.methods.heads.gradient.held_out.held_out_folds", lambda *a: pytest.fail("rows are held out")
    )
    fitted = kind(epochs=2, select="last", **setting).fit(X, y)
    assert (fitted.selected_epoch_, fitted.selected_on_) == (2, "")


@pytest.mark.parametrize("kind", [CRT, MaxNorm, Cosine])  # those with a setting to choose
def test_setting_is_chosen_by_the_last_epoch_if_that_is_kept(tail, kind):
    X, y = tail[:2]
    fitted = kind(epochs=2, select="last").fit(X, y)
    assert (fitted.selected_epoch_, fitted.selected_on_) == (2, "train_slice")


@HEADS
def test_best_on_val_needs_validation_rows(tail, kind):
    with pytest.raises(ConfigError, match=r"\.select must be last without X_val and y_val, got best_val"):
        kind(select="best_val").fit(*tail[:2])
    fitted = kind(epochs=2, select="best_val").fit(*tail[:4])
    assert fitted.selected_on_ == "val" and "val_macro" not in fitted.history_


@HEADS
def test_classes_with_one_row_each_are_trained_without_a_choice(kind):
    fitted = kind(epochs=2).fit(np.eye(6), np.arange(6))
    assert (fitted.selected_epoch_, fitted.selected_on_) == (2, "")


@HEADS
def test_finished_parts_are_read_back_and_give_the_same_bits(tail, kind, tmp_path, monkeypatch):
    X, y = tail[0].astype(np.float32), tail[1]
    plain = kind(epochs=2).fit(X, y).scores(X)
    kept = kind(epochs=2).fit(X, y, store=CheckpointStore(tmp_path)).scores(X)
    monkeypatch.setattr(RowsTask, "step", lambda *a: pytest.fail("a step was taken"))
    again = kind(epochs=2).fit(X, y, store=CheckpointStore(tmp_path)).scores(X)
    assert plain.tobytes() == kept.tobytes() == again.tobytes()
