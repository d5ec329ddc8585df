"""IPDPPSampler: sizes, probabilities, estimators and pipelines."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from imblearn.pipeline import make_pipeline
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from longtail.core.errors import ConfigError, DataError
from longtail.methods.ipdpp import Information, IPDPPSampler, RankOneKDPP, select


@pytest.fixture
def data():
    stream = np.random.default_rng(0)
    y = stream.permutation(np.repeat([0, 1, 2], [80, 30, 10]))
    return stream.normal(size=(120, 4)) + 2 * np.eye(3, 4)[y], y


def test_given_probabilities_decide_without_a_classifier(data):
    X, y = data
    p = np.random.default_rng(1).random(120)
    sampler = IPDPPSampler(random_state=7)
    X_drawn, y_drawn = sampler.fit_resample(X, y, sample_probability=p)
    chosen = select(y, {0: 10, 1: 10}, seed=7, probability=p)
    np.testing.assert_array_equal(sampler.sample_indices_, chosen.indices)
    np.testing.assert_array_equal(sampler.inclusion_probability_, chosen.inclusion_probability)
    np.testing.assert_array_equal(X_drawn, X[chosen.indices])
    np.testing.assert_array_equal(y_drawn, y[chosen.indices])
    assert sampler.sampling_strategy_ == {0: 10, 1: 10}
    assert not hasattr(sampler, "estimator_")


@pytest.mark.parametrize("estimator", [None, DecisionTreeClassifier(max_depth=2, random_state=0)])
def test_estimator_gives_the_probabilities_of_its_own_training_rows(data, estimator):
    X, y = data
    sampler = IPDPPSampler(estimator=estimator, random_state=0)
    sampler.fit_resample(X, y)
    expected = LogisticRegression(max_iter=1000) if estimator is None else estimator
    known = Information.from_probability(expected.fit(X, y).predict_proba(X)[y == 0, 0])
    inclusion = RankOneKDPP(known.d, known.r, 10).inclusion_probability()
    np.testing.assert_allclose(sampler.inclusion_probability_[y == 0], inclusion, rtol=1e-9)
    assert type(sampler.estimator_) is type(expected)
    assert estimator is None or sampler.estimator_ is not estimator


def test_estimator_with_names_for_labels_finds_the_right_column(data):
    X, y = data
    by_number, by_name = IPDPPSampler(random_state=0), IPDPPSampler(random_state=0)
    by_number.fit_resample(X, y)
    by_name.fit_resample(X, np.array(["cat", "ant", "bee"])[y])
    np.testing.assert_allclose(by_name.inclusion_probability_, by_number.inclusion_probability_, rtol=1e-3)


@pytest.mark.parametrize(
    ("parameters", "kept"),
    [
        ({}, [10, 10, 10]),
        ({"sampling_strategy": "majority"}, [10, 30, 10]),
        ({"sampling_strategy": {0: 25, 2: 3}}, [25, 30, 3]),
        ({"sampling_strategy": lambda y: {1: 4}}, [80, 4, 10]),
        ({"k": 20}, [20, 20, 10]),
        ({"k": "2*n_min"}, [20, 20, 10]),
        ({"k": 0}, [0, 0, 0]),
    ],
)
def test_sizes_by_sampling_strategy_or_k(data, parameters, kept):
    X, y = data
    sampler = IPDPPSampler(random_state=0, **parameters)
    _, y_drawn = sampler.fit_resample(X, y, sample_probability=np.full(120, 0.5))
    assert np.bincount(y_drawn, minlength=3).tolist() == kept


def test_k_beside_a_sampling_strategy_is_refused(data):
    with pytest.raises(ConfigError, match="sampling_strategy must be 'auto' if k is given, got"):
        IPDPPSampler(k=5, sampling_strategy={0: 5}).fit_resample(*data)


def test_random_state_decides_the_draw(data):
    X, y = data
    first, same, other = (IPDPPSampler(random_state=seed) for seed in (0, 0, 1))
    for sampler in (first, same, other):
        sampler.fit_resample(X, y)
    assert first.sample_indices_.tobytes() == same.sample_indices_.tobytes()
    assert first.sample_indices_.tolist() != other.sample_indices_.tolist()
    shared = IPDPPSampler(random_state=np.random.RandomState(0))
    draws = [shared.fit_resample(X, y) and shared.sample_indices_.tolist() for _ in range(2)]
    assert draws[0] != draws[1]


def test_data_frames_keep_their_names(data):
    X, y = data
    frame = pd.DataFrame(X, columns=list("abcd"), index=np.arange(500, 620))
    X_drawn, y_drawn = IPDPPSampler(random_state=0).fit_resample(frame, pd.Series(y, name="kind"))
    assert X_drawn.columns.tolist() == list("abcd") and y_drawn.name == "kind"


def test_sampler_works_in_a_pipeline_of_imbalanced_learn(data):
    X, y = data
    model = make_pipeline(IPDPPSampler(random_state=0), LogisticRegression()).fit(X, y)
    assert model.score(X, y) > 0.6


@pytest.mark.parametrize(
    ("p", "reason"), [(np.full(120, 1.2), "probability of class 0"), (np.ones(5), r"shape \(120,\), got \(5,\)")]
)
def test_probabilities_that_are_none_are_refused(data, p, reason):
    with pytest.raises(DataError, match=reason):
        IPDPPSampler().fit_resample(*data, sample_probability=p)


def test_estimator_without_probabilities_is_refused(data):
    with pytest.raises(ValueError, match="'estimator' parameter of IPDPPSampler must be"):
        IPDPPSampler(estimator=SVC(probability=False)).fit_resample(*data)


def test_missing_imbalanced_learn_names_the_extra():
    program = "import sys; sys.modules['imblearn'] = None; from longtail.methods.ipdpp import select, IPDPPSampler"
    ran = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert "ImportError: IPDPPSampler needs imbalanced-learn: pip install 'longtail[imbalanced]'" in ran.stderr
