"""Post-hoc logit adjustment."""

import numpy as np
import pytest

from longtail.core.errors import ConfigError
from longtail.methods.heads import LinearHead, LogitAdjustment


def test_logit_adjustment_has_the_worked_probabilities_of_balanced_softmax_undone():
    """z + log n is what balanced softmax trains; taking log n off gives z back, up to a constant."""
    y = np.repeat([0, 1, 2], [100, 10, 1])
    X = np.random.default_rng(0).normal(size=(111, 4))
    weight, bias = np.random.default_rng(1).normal(size=(3, 4)), np.array([0.5, -0.5, 1.0])
    trained = bias + np.log([100, 10, 1])
    found = LogitAdjustment(head=(weight, trained)).fit(X, y).scores(X)
    expected = X @ weight.T + bias
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=1e-9)


def test_logit_adjustment_moves_scores_by_the_log_prior_alone():
    y = np.repeat([0, 1], [30, 10])
    X = np.random.default_rng(0).normal(size=(40, 3))
    head = (np.eye(2, 3), None)
    plain = LogitAdjustment(0.0, head=head).fit(X, y).scores(X)
    np.testing.assert_allclose(plain, X[:, :2], atol=1e-12)
    for adjustment in (0.5, 1.0, 2.0):
        moved = LogitAdjustment(adjustment, head=head).fit(X, y).scores(X)
        np.testing.assert_allclose(plain - moved, np.tile(adjustment * np.log([0.75, 0.25]), (40, 1)), atol=1e-12)


def test_logit_adjustment_of_a_cosine_head_acts_on_its_scaled_cosines():
    y = np.repeat([0, 1], [30, 10])
    X = np.random.default_rng(0).normal(size=(40, 3))
    weight = np.random.default_rng(1).normal(size=(2, 3))
    head = LinearHead(weight, None, "cosine", 16.0)
    found = LogitAdjustment(head=head).fit(X, y).scores(X)
    np.testing.assert_allclose(found, head.scores(X) - np.log([0.75, 0.25]), atol=1e-9)


def test_logit_adjustment_below_zero_is_refused():
    with pytest.raises(ConfigError, match=r"logit_adjustment\.adjustment must be at least 0 .*, got -1$"):
        LogitAdjustment(-1.0).fit(np.eye(4), np.array([0, 0, 1, 1]))
