"""Classifier re-training."""

import numpy as np
import torch

from longtail.methods.heads import CRT, Joint
from longtail.methods.heads.crt import initial_head
from tests.unit.methods.heads.helpers import reference_training


def test_crt_starts_from_its_own_head_within_the_default_bound():
    head = initial_head(50, 64, 0, np.dtype(np.float32))
    assert head.weight.dtype == np.float32
    assert 0.12 < np.abs(head.weight).max() <= 0.125 and np.abs(head.bias).max() <= 0.125
    assert not np.array_equal(head.weight, initial_head(50, 64, 1, np.dtype(np.float32)).weight)


def test_crt_forgets_stage_one_and_moves_from_its_start(tail):
    rows, y, *_ = tail
    fitted, joint = CRT(batch_size=64).fit(rows, y), Joint().fit(rows, y)
    assert np.abs(fitted.linear_head_.weight).max() <= 0.25
    assert not np.allclose(fitted.linear_head_.weight, joint.weight_)
    assert not np.allclose(fitted.weight_, fitted.linear_head_.weight)
    unmoved = CRT(batch_size=64, lr=1e-30).fit(rows, y)
    np.testing.assert_array_equal(unmoved.weight_, fitted.linear_head_.weight)


def test_crt_is_torch_sgd_on_class_aware_draws(tail):
    rows, y, *_ = tail
    fitted = CRT(epochs=4, batch_size=100, random_state=3).fit(rows, y)
    weight, bias = (torch.tensor(a, requires_grad=True) for a in (fitted.linear_head_.weight, fitted.linear_head_.bias))
    features = torch.from_numpy(rows)
    losses = reference_training([weight, bias], lambda b: features[b] @ weight.T + bias, "crt", y, 4, 100, 3)
    np.testing.assert_allclose(fitted.weight_, weight.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(fitted.bias_, bias.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(fitted.history_["loss"], losses, atol=1e-10)
