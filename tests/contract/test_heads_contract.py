"""Every head keeps scikit-learn's estimator contract and the few promises that all heads share."""

import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

import longtail.methods.heads as heads
from longtail.core.errors import DataError
from longtail.methods.heads import CRT, LWS, NCM, Joint, LinearHead, LogitAdjustment, TauNorm

ALL = [
    Joint(),
    NCM(),
    *(NCM(feature=feature, distance=distance) for feature, distance in [("l2n", "cos"), ("un", "true_cosine")]),
    CRT(),
    CRT(epochs=3, batch_size=16, samples_per_class=1),
    TauNorm(),
    TauNorm(tau=0.5),
    LWS(),
    LogitAdjustment(),
    LogitAdjustment(adjustment=0.5),
]


@parametrize_with_checks(ALL)
def test_estimator_keeps_the_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture
def blobs():
    stream = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [40, 20, 10])
    centres = np.array([[3.0, 0.0, 0.0, 1.0], [0.0, 3.0, 0.0, 1.0], [0.0, 0.0, 3.0, 1.0]])
    return centres[y] + stream.normal(size=(70, 4)), y


@pytest.mark.parametrize("head", ALL, ids=repr)
def test_arbitrary_labels_give_the_predictions_of_their_positions(head, blobs):
    X, y = blobs
    names = np.array(["ant", "bee", "cat"])
    by_position = clone(head).fit(X, y).predict(X)
    by_name = clone(head).fit(X, names[y])
    assert by_name.classes_.tolist() == ["ant", "bee", "cat"]
    assert by_name.predict(X).tolist() == names[by_position].tolist()


@pytest.mark.parametrize("head", ALL, ids=repr)
def test_scores_are_two_dimensional_for_two_classes_and_decision_is_their_difference(head, blobs):
    X, y = blobs
    X, y = X[y < 2], y[y < 2]
    fitted = clone(head).fit(X, y)
    scores = fitted.scores(X)
    assert scores.shape == (60, 2)
    np.testing.assert_array_equal(fitted.decision_function(X), scores[:, 1] - scores[:, 0])
    np.testing.assert_array_equal(fitted.predict(X), scores.argmax(axis=1))


@pytest.mark.parametrize("head", ALL, ids=repr)
def test_same_inputs_and_seed_give_the_same_bits(head, blobs):
    X, y = blobs
    X = X.astype(np.float32)
    assert clone(head).fit(X, y).scores(X).tobytes() == clone(head).fit(X, y).scores(X).tobytes()


@pytest.mark.parametrize("head", ALL, ids=repr)
def test_block_size_does_not_change_predictions(head, blobs, monkeypatch):
    X, y = blobs
    fitted = clone(head).fit(X, y)
    scores, labels = fitted.scores(X), fitted.predict(X)
    monkeypatch.setattr("longtail.methods.heads.base.BLOCK_BYTES", 300)
    np.testing.assert_allclose(fitted.scores(X), scores, atol=1e-12)
    np.testing.assert_array_equal(fitted.predict(X), labels)
    np.testing.assert_allclose(clone(head).fit(X, y).scores(X), scores, atol=1e-12)


@pytest.mark.parametrize("head", [h for h in ALL if hasattr(h, "predict_proba")], ids=repr)
def test_probabilities_are_the_softmax_of_the_scores(head, blobs):
    X, y = blobs
    fitted = clone(head).fit(X, y)
    weights = np.exp(fitted.scores(X))
    np.testing.assert_allclose(fitted.predict_proba(X), weights / weights.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.exp(fitted.predict_log_proba(X)), fitted.predict_proba(X))


@pytest.mark.parametrize("head", [h for h in ALL if not isinstance(h, NCM)], ids=repr)
def test_weight_and_bias_are_the_scores(head, blobs):
    X, y = blobs
    fitted = clone(head).fit(X, y)
    assert fitted.weight_.shape == (3, 4)
    bias = 0.0 if fitted.bias_ is None else fitted.bias_
    np.testing.assert_allclose(fitted.scores(X), X @ fitted.weight_.T + bias, atol=1e-12)


def test_scores_that_are_not_likelihoods_offer_no_probabilities():
    assert not any(hasattr(head, "predict_proba") for head in (NCM(), TauNorm()))


@pytest.mark.parametrize("kind", [Joint, TauNorm, LWS])
def test_head_of_another_shape_is_refused(kind, blobs):
    X, y = blobs
    with pytest.raises(DataError, match=r"head\.weight is \(2, 4\), but X and y ask for \(3, 4\)"):
        kind(head=(np.ones((2, 4)), None)).fit(X, y)


@pytest.mark.parametrize("kind", [Joint, TauNorm, LWS])
def test_head_that_is_not_one_is_refused(kind, blobs):
    X, y = blobs
    with pytest.raises(DataError, match="head must be None"):
        kind(head=3).fit(X, y)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"weight": np.ones((2, 3)), "bias": np.ones(3)}, "bias must be"),
        ({"weight": np.ones(3)}, "must be a"),
        ({"weight": np.ones((2, 3)), "kind": "ncm"}, "kind must be"),
        ({"weight": np.ones((2, 3)), "bias": np.ones(2), "kind": "cosine"}, "has no bias"),
        ({"weight": np.full((2, 3), np.nan)}, "must be finite"),
    ],
)
def test_malformed_linear_head_is_refused(arguments, reason):
    with pytest.raises(DataError, match=reason):
        LinearHead(**arguments)


def test_importing_heads_imports_no_torch():
    program = (
        "import sys; from longtail.methods.heads import CRT, LWS, NCM, Joint, TauNorm; "
        "import longtail.methods.heads.gradient.sgd; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_package_lists_its_names_and_refuses_others():
    assert set(heads.__all__) <= set(dir(heads))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        heads.Nothing  # noqa: B018
