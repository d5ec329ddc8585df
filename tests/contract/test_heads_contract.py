"""Every head keeps scikit-learn's estimator contract and the few promises that all heads share."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from sklearn.base import clone

import longtail.methods.heads as heads
from longtail.core.errors import ConfigError, DataError
from longtail.core.head import Head
from longtail.core.params import keys_of
from longtail.methods.heads import (
    CRT,
    HEADS,
    KNN,
    LDA,
    LOS,
    LWS,
    NCM,
    Cosine,
    HeadEntry,
    Joint,
    LinearHead,
    LogitAdjustment,
    MaxNorm,
    SoftmaxRegression,
    TauNorm,
)
from tests.contract.estimator_checks import each_check

VARIANTS = [  # beside the default of every registered head
    *(NCM(feature=feature, distance=distance) for feature, distance in [("l2n", "cos"), ("un", "true_cosine")]),
    CRT(epochs=3, batch_size=16, samples_per_class=1),
    CRT(lr=0.2, batch_size=16),
    LWS(trained_on="fitted", lr=0.2),
    SoftmaxRegression(prior="uniform"),
    TauNorm(tau=0.5),
    LogitAdjustment(adjustment=0.5),
    KNN(k=3, temperature=0.5, prior="train"),
    LDA(shrinkage=0.5, correction=0, prior="train"),
    LOS(class_weights="none", features="raw", lr=0.1, batch_size=16, select="last"),
    MaxNorm(cap=0.5, features="raw", lr=0.1, weight_decay=0.1, select="last"),
    Cosine(scale=25, lr=0.02, select="last"),
]
ALL = [*(entry.estimator() for entry in HEADS.entries().values()), *VARIANTS]
EACH_ENTRY = pytest.mark.parametrize(("name", "entry"), HEADS.entries().items(), ids=HEADS.names())
SHORT = {"epochs": 2}  # the estimator contract does not depend on how long a head is trained
# Arguments that no key of params.yaml gives.
AROUND = {"head", "device", "progress", "random_state"}


@each_check([clone(head).set_params(**SHORT) if "epochs" in head.get_params() else head for head in ALL])
def test_estimator_keeps_the_scikit_learn_contract(estimator, check):
    check(estimator)


@pytest.fixture
def blobs():
    stream = np.random.default_rng(0)
    y = np.repeat([0, 1, 2], [40, 20, 10])
    centers = np.array([[3.0, 0.0, 0.0, 1.0], [0.0, 3.0, 0.0, 1.0], [0.0, 0.0, 3.0, 1.0]])
    return centers[y] + stream.normal(size=(70, 4)), y


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


@pytest.mark.parametrize("head", [h for h in ALL if not isinstance(h, NCM | KNN | Cosine)], ids=repr)
def test_weight_and_bias_are_the_scores(head, blobs):
    X, y = blobs
    fitted = clone(head).fit(X, y)
    assert fitted.weight_.shape == (3, 4)
    bias = 0.0 if fitted.bias_ is None else fitted.bias_
    np.testing.assert_allclose(fitted.scores(X), X @ fitted.weight_.T + bias, atol=1e-12)


def test_scores_that_are_not_likelihoods_offer_no_probabilities():
    assert not any(hasattr(head, "predict_proba") for head in (NCM(), TauNorm(), LOS()))


@pytest.mark.parametrize("kind", [Joint, TauNorm, LWS])
def test_head_of_another_shape_is_refused(kind, blobs):
    X, y = blobs
    with pytest.raises(DataError, match=r"head\.weight must have shape \(3, 4\), .*, got \(2, 4\)"):
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
        "import sys; import longtail.methods.heads as heads; [getattr(heads, name) for name in heads.__all__]; "
        "heads.HEADS.entries(); "
        "import longtail.methods.heads.gradient.sgd; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_package_lists_its_names_and_refuses_others():
    assert set(heads.__all__) <= set(dir(heads))
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        heads.Nothing  # noqa: B018


# What every entry of the registry promises


@pytest.fixture(scope="module")
def tailed():
    """Ten overlapping classes of 200 to 5 rows far from the origin, and 1,000 test rows; float32."""
    stream = np.random.default_rng(1)
    counts = np.round(200 * (1 / 40) ** (np.arange(10) / 9)).astype(int)
    offset, spreads, centers = (stream.normal(size=size) for size in (32, 32, (10, 32)))
    y, y_test = np.repeat(np.arange(10), counts), np.repeat(np.arange(10), 100)
    X, X_test = (
        (2 * offset + np.exp(spreads / 2) * (0.6 * centers[k] + stream.normal(size=(len(k), 32)))).astype(np.float32)
        for k in (y, y_test)
    )
    return X, y, X_test, y_test


@EACH_ENTRY
def test_scale_and_offset_of_the_features_change_no_prediction(name, entry, tailed):
    X, y, X_test, y_test = tailed
    expected = entry.estimator().fit(X, y).predict(X_test)
    assert np.mean(expected == y_test) > 0.4
    offset = np.random.default_rng(2).normal(scale=4 * X.std(axis=0).mean(), size=32).astype(np.float32)
    for factor, shift in ((0.01, 0), (100, 0), (1, offset), (100, offset)):
        rows, rows_test = ((np.float32(factor) * (part + shift)).astype(np.float32) for part in (X, X_test))
        found = entry.estimator().fit(rows, y).predict(rows_test)
        assert np.mean(found != expected) <= 1e-3, (factor, "shifted" if np.any(shift) else "")


@EACH_ENTRY
def test_group_has_the_name_of_the_head(name, entry):
    assert entry.params.path == name
    assert entry.params().path == name


@EACH_ENTRY
def test_every_argument_of_the_estimator_comes_from_a_key_or_from_the_stage(name, entry):
    params = entry.params()
    given = {**vars(params), **entry.arguments(params)}
    arguments = inspect.signature(entry.estimator).parameters
    assert set(arguments) <= set(given) | AROUND, "an argument that nobody sets"
    assert set(entry.arguments(params)) <= set(arguments)
    estimator = entry.estimator(**{key: value for key, value in given.items() if key in arguments})
    assert estimator.get_params() == entry.estimator().get_params() | {
        key: value for key, value in given.items() if key in arguments
    }


@EACH_ENTRY
def test_every_key_reaches_the_estimator_or_the_stage(name, entry):
    """No key is declared and then ignored: ``mode``, ``bn_mode`` and ``select_on`` are read outside the estimator."""
    renamed = {"value"} if "tau" in entry.arguments(entry.params()) else set()
    arguments = set(inspect.signature(entry.estimator).parameters)
    assert set(keys_of(entry.params)) - arguments - renamed <= {"mode", "bn_mode", "select_on"}


@EACH_ENTRY
def test_entry_describes_what_was_fitted(name, entry: HeadEntry, blobs):
    """Notes are plain values for JSON, arrays are NumPy arrays, and ``head_`` is what a head file stores."""
    X, y = blobs
    params = entry.params()
    estimator = entry.estimator().fit(X, y)
    assert all(type(value) in (str, int, float, bool) for value in entry.notes(estimator, params).values())
    assert all(isinstance(value, np.ndarray) for value in entry.arrays(estimator, params).values())
    assert isinstance(estimator.head_, Head)
    assert entry.selects_on(params) in ("val", "test")


@EACH_ENTRY
def test_likelihoods_are_declared_where_the_estimator_offers_probabilities(name, entry):
    assert entry.likelihood == hasattr(entry.estimator(), "predict_proba")


def test_exactly_one_head_is_that_of_stage_1_and_it_is_first():
    assert [name for name, entry in HEADS.entries().items() if entry.is_stage1] == ["joint"]
    assert HEADS.names()[0] == "joint"


def test_every_estimator_can_be_imported_from_the_package():
    for entry in HEADS.entries().values():
        assert getattr(heads, entry.estimator.__name__) is entry.estimator


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (LogitAdjustment(adjustment=-1), "logit_adjustment.adjustment must be at least 0 and at most 10, got -1"),
        (NCM(feature="cosine"), "ncm.feature must be one of un, l2n, cl2n, got cosine"),
        (NCM(distance=2), "ncm.distance must be one of l2, cos, true_cosine, got 2"),
        (TauNorm(tau="high"), "tau.value must be a finite number or auto, got high"),
        (TauNorm(tau=-1), "tau.value must be at least 0 and at most 10, got -1"),
        (TauNorm(grid_step=0), "tau.grid_step must be above 0 and at most 10, got 0"),
        (CRT(epochs=0), "crt.epochs must be at least 1, got 0"),
        (CRT(lr=np.nan), "crt.lr must be a finite number or auto, got nan"),
        (LWS(epochs=True), "lws.epochs must be a whole number, got true"),
        (KNN(k=0), "knn.k must be at least 1, got 0"),
        (KNN(temperature="low"), "knn.temperature must be a finite number or auto, got low"),
        (LDA(shrinkage=0), "lda.shrinkage must be above 0 and at most 1, got 0"),
        (LOS(smoothing=1), "los.smoothing must be at least 0 and below 1, got 1"),
        (MaxNorm(cap=-1), "max_norm.cap must be above 0, got -1"),
        (Cosine(scale=0), "cosine.scale must be above 0, got 0"),
        (LWS(select="best"), "lws.select must be one of auto, last, best_val, got best"),
    ],
    ids=repr,
)
def test_fit_refuses_bad_arguments_with_the_sentence_of_the_loader(head, message, blobs):
    with pytest.raises(ConfigError) as caught:
        head.fit(*blobs)
    assert str(caught.value) == message
