"""Classifier re-training."""

import numpy as np
import pytest
import torch

from longtail.methods.heads import CRT, Joint
from longtail.methods.heads.crt import DECAYS, initial_head
from longtail.methods.heads.gradient.linear import largest_variance
from tests.unit.methods.heads.helpers import RELEASED, reference_training


def test_crt_starts_from_its_own_head_within_the_default_bound():
    head = initial_head(50, 64, 0, np.dtype(np.float32))
    assert head.weight.dtype == np.float32
    assert 0.12 < np.abs(head.weight).max() <= 0.125 and np.abs(head.bias).max() <= 0.125
    assert not np.array_equal(head.weight, initial_head(50, 64, 1, np.dtype(np.float32)).weight)


def test_crt_forgets_stage_one_and_moves_from_its_start(tail):
    rows, y, *_ = tail
    fitted, joint = CRT(**RELEASED, batch_size=64).fit(rows, y), Joint().fit(rows, y)
    assert np.abs(fitted.linear_head_.weight).max() <= 0.25
    assert not np.allclose(fitted.linear_head_.weight, joint.weight_)
    assert not np.allclose(fitted.weight_, fitted.linear_head_.weight)
    unmoved = CRT(batch_size=64, lr=1e-30).fit(rows, y)
    np.testing.assert_array_equal(unmoved.weight_, fitted.linear_head_.weight)


def test_crt_is_torch_sgd_on_class_aware_draws(tail):
    rows, y, *_ = tail
    fitted = CRT(**RELEASED, epochs=4, batch_size=100, random_state=3).fit(rows, y)
    weight, bias = (torch.tensor(a, requires_grad=True) for a in (fitted.linear_head_.weight, fitted.linear_head_.bias))
    features = torch.from_numpy(rows)
    losses = reference_training([weight, bias], lambda b: features[b] @ weight.T + bias, "crt", y, 4, 100, 3)
    np.testing.assert_allclose(fitted.weight_, weight.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(fitted.bias_, bias.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(fitted.history_["loss"], losses, atol=1e-10)


def test_fold_that_chooses_is_given_back(tail):
    rows, y, *_ = tail
    fitted = CRT(batch_size=64).fit(rows, y)
    assert fitted.selected_on_ == "train_slice"
    assert fitted.history_["epoch"] == list(range(1, fitted.selected_epoch_ + 1))
    again = CRT(batch_size=64, weight_decay=fitted.weight_decay_).fit(rows, y)
    assert again.weight_.tobytes() == fitted.weight_.tobytes()
    # The largest class has 400 of 850 rows: one epoch over all rows, not over four fifths, has this many steps.
    whole = CRT(batch_size=64, weight_decay=fitted.weight_decay_, select="last").fit(rows, y)
    assert whole.history_["loss"][0] == fitted.history_["loss"][0]


def test_validation_rows_choose_decay_and_epoch_and_are_not_trained_on(tail):
    rows, y, rows_test, y_test, _ = tail
    fitted = CRT(batch_size=64).fit(rows, y, rows_test, y_test)
    macros = [
        max(CRT(batch_size=64, weight_decay=decay).fit(rows, y, rows_test, y_test).history_["val_macro"])
        for decay in DECAYS
    ]
    assert max(fitted.history_["val_macro"]) == max(macros)
    assert fitted.weight_decay_ == DECAYS[int(np.argmax(macros))]
    assert fitted.score(rows_test, y_test) == pytest.approx(max(macros))


def test_largest_variance_is_the_largest_eigenvalue():
    rows = torch.randn(500, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * torch.arange(1.0, 7)
    rows -= rows.mean(dim=0)
    assert largest_variance(rows) == pytest.approx(float(torch.linalg.eigvalsh(rows.T @ rows / 500)[-1]), rel=0.01)
    assert largest_variance(torch.zeros(5, 3)) == 1.0


def test_given_weight_decay_holds_where_no_row_can_be_held_out():
    assert CRT(weight_decay=0.01, batch_size=2).fit(np.eye(3), [0, 1, 2]).weight_decay_ == 0.01
