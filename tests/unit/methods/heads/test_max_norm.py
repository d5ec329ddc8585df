"""Weight balancing."""

import numpy as np
import pytest

from longtail.methods.heads import MaxNorm
from longtail.methods.heads.gradient.task import RowsTask
from longtail.methods.heads.max_norm import CAPS, effective_weights


def test_no_weight_row_is_longer_than_the_cap_after_any_step(tail, monkeypatch):
    X, y = tail[:2]
    largest, step = [], RowsTask.step

    def watched(task, epoch, number):
        logged = step(task, epoch, number)
        largest.append(float(task._scorer.weight.norm(dim=1).max()))
        return logged

    monkeypatch.setattr(RowsTask, "step", watched)
    fitted = MaxNorm(cap=0.4, epochs=3).fit(X, y)
    assert fitted.cap_ == 0.4
    assert 0.39 < max(largest) < 0.4 + 1e-12


def test_rows_below_the_cap_are_left_alone(tail):
    X, y = tail[:2]
    loose, looser = (MaxNorm(cap=cap, epochs=2).fit(X, y).scores(X) for cap in (1e3, 1e6))
    np.testing.assert_array_equal(loose, looser)


def test_chosen_cap_is_of_the_grid_for_the_width(tail):
    X, y = tail[:2]
    assert MaxNorm(epochs=2).fit(X, y).cap_ in [cap / 4 for cap in CAPS]


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_class_weights_follow_the_effective_number(beta):
    counts = np.array([500, 20, 1])
    weights = effective_weights(counts, beta)
    expected = (1 - beta) / (1 - beta**counts)
    np.testing.assert_allclose(weights / weights[-1], expected / expected[-1])
    assert weights @ counts == pytest.approx(counts.sum())
