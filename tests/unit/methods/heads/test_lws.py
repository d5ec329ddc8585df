"""Learnable weight scaling."""

import numpy as np
import pytest
import torch

from longtail.core.errors import ConfigError
from longtail.methods.heads import LWS, Joint
from longtail.methods.heads.gradient.scorers import ScaleScorer
from longtail.methods.heads.gradient.task import RowsTask
from longtail.methods.heads.lws import LWSParams
from longtail.train.checkpointing import CheckpointStore
from longtail.train.loop import run
from tests.unit.methods.heads.helpers import RELEASED, reference_training


class InOrder:
    """Rows in their own order."""

    def epoch(self, epoch, draws):
        return np.arange(draws)


def lws_steps(steps):
    """(scales, losses) after full-batch steps on the worked logits at a constant rate."""
    scales = torch.ones(3, dtype=torch.float64)
    z = torch.tensor([[2.0, 1.0, 0.0], [1.0, 3.0, -1.0]], dtype=torch.float64)
    scorer = ScaleScorer(scales, weight=torch.eye(3, dtype=torch.float64))
    y = np.array([1, 0])
    params = LWSParams(epochs=steps)
    task = RowsTask(scorer, z, y, None, InOrder(), params, 2, 0.2, 5e-4, "last")
    task._multiplier = lambda epoch, fraction: 1.0
    outcome = run(task, epochs=steps, label="lws", part="lws", store=CheckpointStore(), progress="off")
    return scales.numpy(), outcome.columns()["loss"]


def test_lws_steps_have_the_worked_values():
    scales, losses = lws_steps(1)
    np.testing.assert_allclose(scales, [0.955121, 0.815383, 1.001488], atol=1e-6)
    np.testing.assert_allclose((1.0 - scales) / 0.2 - 5e-4, [0.223896, 0.922584, -0.007938], atol=1e-6)
    scales, losses = lws_steps(2)
    np.testing.assert_allclose(scales, [0.861827, 0.487909, 1.005258], atol=1e-6)
    np.testing.assert_allclose(losses, [1.775269, 1.604202], atol=1e-6)


def test_lws_leaves_its_head_bit_for_bit_and_folds_its_scales(tail):
    rows, y, rows_test, *_ = tail
    stream = np.random.default_rng(0)
    weight, bias = stream.normal(size=(10, 16)), stream.normal(size=10)
    before = weight.tobytes(), bias.tobytes()
    fitted = LWS(head=(weight, bias), batch_size=64).fit(rows, y)
    assert (fitted.linear_head_.weight.tobytes(), fitted.linear_head_.bias.tobytes()) == before
    assert not np.allclose(fitted.scales_, 1.0)
    np.testing.assert_allclose(
        fitted.scores(rows_test), fitted.scales_ * (rows_test @ weight.T + bias), rtol=1e-9, atol=1e-12
    )


def test_lws_starts_at_the_joint_head(tail):
    rows, y, rows_test, *_ = tail
    joint = Joint().fit(rows, y)
    untrained = LWS(head=joint.linear_head_, trained_on="fitted", lr=1e-30).fit(rows, y)
    np.testing.assert_array_equal(untrained.scales_, 1.0)
    assert untrained.scores(rows_test).tobytes() == joint.scores(rows_test).tobytes()


def test_lws_weight_decay_pulls_scales_toward_zero(tail):
    rows, y, *_ = tail
    plain, decayed = (LWS(batch_size=64, weight_decay=wd).fit(rows, y).scales_ for wd in (0.0, 0.5))
    assert np.abs(decayed).sum() < np.abs(plain).sum()
    assert decayed.max() < 1.0


def test_lws_gives_the_same_scales_when_logits_do_not_fit_in_memory(tail, monkeypatch):
    rows, y, rows_test, y_test, _ = tail
    kept = LWS(batch_size=64, trained_on="fitted").fit(rows, y, rows_test, y_test)
    monkeypatch.setattr("longtail.methods.heads.lws.SCORES_BUDGET", 0)
    recomputed = LWS(batch_size=64, trained_on="fitted").fit(rows, y, rows_test, y_test)
    np.testing.assert_allclose(recomputed.scales_, kept.scales_, rtol=1e-9)
    np.testing.assert_allclose(recomputed.history_["val_accuracy"], kept.history_["val_accuracy"])


def test_lws_is_torch_sgd_on_class_aware_draws(tail):
    rows, y, *_ = tail
    fitted = LWS(**RELEASED, trained_on="fitted", epochs=4, batch_size=100, random_state=3).fit(rows, y)
    scales = torch.ones(10, dtype=torch.float64, requires_grad=True)
    z = torch.from_numpy(fitted.linear_head_.scores(rows))
    losses = reference_training([scales], lambda b: scales * z[b], "lws", y, 4, 100, 3)
    np.testing.assert_allclose(fitted.scales_, scales.detach().numpy(), atol=1e-10)
    np.testing.assert_allclose(fitted.history_["loss"], losses, atol=1e-10)


def test_scales_of_a_base_head_are_trained_on_scores_of_rows_that_it_has_not_seen(tail):
    rows, y, *_ = tail
    head = Joint().fit(rows, y).head_
    held_out, fitted = (LWS(head=head, trained_on=kind).fit(rows, y) for kind in ("held_out", "fitted"))
    assert LWS(head=head).fit(rows, y).scales_.tobytes() == held_out.scales_.tobytes()
    assert held_out.history_["loss"][0] > fitted.history_["loss"][0]  # new rows have smaller margins
    assert held_out.linear_head_.prior == "uniform"
    with pytest.raises(ConfigError, match=r"lws\.trained_on must be fitted or auto with a head that is no base head"):
        LWS(head=(head.weight, head.bias), trained_on="held_out").fit(rows, y)


def test_start_counts_as_epoch_0_where_val_chooses(tail):
    rows, y, *_ = tail
    start = Joint().fit(rows, y)
    fitted = LWS(head=start.linear_head_, trained_on="fitted").fit(rows, y, rows, start.predict(rows))
    assert (fitted.selected_epoch_, fitted.selected_on_) == (0, "val")
    np.testing.assert_array_equal(fitted.scales_, 1.0)
