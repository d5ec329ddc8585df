"""Every head on a cosine head of stage 1."""

import numpy as np
import pytest
from sklearn.preprocessing import normalize

from longtail.methods.heads import LWS, Joint, LinearHead, TauNorm


@pytest.fixture
def cosine_head():
    return LinearHead(
        np.random.default_rng(5).normal(size=(10, 16)) * np.linspace(0.1, 4, 10)[:, None], None, "cosine", 8
    )


def test_joint_on_a_cosine_head_scores_scale_times_cosine(cosine_head, tail):
    rows, y, rows_test, *_ = tail
    joint = Joint(head=cosine_head).fit(rows, y)
    np.testing.assert_allclose(joint.scores(rows_test), 8 * normalize(rows_test) @ normalize(cosine_head.weight).T)
    assert joint.unit_input_


def test_tau_changes_nothing_on_a_cosine_head(cosine_head, tail):
    rows, y, rows_test, *_ = tail
    joint = Joint(head=cosine_head).fit(rows, y)
    for tau in (0.0, 1.0, 2.0):
        np.testing.assert_allclose(
            TauNorm(tau, head=cosine_head).fit(rows, y).scores(rows_test), joint.scores(rows_test)
        )


def test_lws_on_a_cosine_head_scales_its_cosines(cosine_head, tail):
    rows, y, rows_test, *_ = tail
    fitted = LWS(head=cosine_head, batch_size=64).fit(rows, y)
    np.testing.assert_allclose(
        fitted.scores(rows_test), fitted.scales_ * cosine_head.scores(rows_test), rtol=1e-9, atol=1e-12
    )
    assert fitted.bias_ is None and fitted.unit_input_
    assert fitted.history_["loss"][-1] < fitted.history_["loss"][0]


def test_cosine_head_scores_zero_for_zero_features_and_rows():
    head = LinearHead(np.array([[1.0, 0.0], [0.0, 0.0]]), None, "cosine", 4.0)
    np.testing.assert_array_equal(head.scores(np.array([[0.0, 0.0], [3.0, 0.0]])), [[0.0, 0.0], [4.0, 0.0]])


def test_any_object_with_weight_and_bias_is_a_head(cosine_head, tail):
    class Stored:
        weight, bias, kind, scale = cosine_head.weight, None, "cosine", 8.0

    rows, y, rows_test, *_ = tail
    np.testing.assert_array_equal(
        Joint(head=Stored()).fit(rows, y).scores(rows_test), Joint(head=cosine_head).fit(rows, y).scores(rows_test)
    )
