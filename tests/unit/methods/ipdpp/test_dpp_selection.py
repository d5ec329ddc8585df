"""Selection over all classes: sizes, seeds, independence of classes, and what is refused."""

import warnings

import numpy as np
import pytest

from longtail.core.errors import ConfigError, DataError
from longtail.methods.ipdpp import Information, LowRankKDPP, RankOneKDPP, select, uniform_official

COUNTS = [60, 25, 12, 1]
SAMPLERS = ("ipdpp", "uniform", "uniform_official", "feature_kdpp")


@pytest.fixture
def data():
    stream = np.random.default_rng(0)
    y = stream.permutation(np.repeat(np.arange(4), COUNTS))
    return {"y": y, "probability": stream.random(98), "features": stream.normal(size=(98, 16))}


def arguments(data, sampler):
    return {**data, "sampler": sampler} if sampler == "feature_kdpp" else {
        "y": data["y"], "probability": data["probability"], "sampler": sampler
    }  # fmt: skip


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_selection_holds_k_items_of_each_class_and_their_probabilities(data, sampler):
    chosen = select(k=10, **arguments(data, sampler))
    assert chosen.indices.dtype == np.int64 and (np.diff(chosen.indices) > 0).all()
    assert chosen.available == {0: 60, 1: 25, 2: 12, 3: 1}
    assert chosen.kept == {0: 10, 1: 10, 2: 10, 3: 1}
    assert np.bincount(data["y"][chosen.indices]).tolist() == [10, 10, 10, 1]
    assert chosen.inclusion_probability.shape == (98,)
    sums = np.bincount(data["y"], weights=chosen.inclusion_probability)
    np.testing.assert_allclose(sums, [10, 10, 10, 1], rtol=1e-9)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_same_seed_and_round_give_the_same_bytes(data, sampler):
    first, second = (select(k=10, seed=3, round=2, **arguments(data, sampler)) for _ in range(2))
    assert first.indices.tobytes() == second.indices.tobytes()
    assert first.inclusion_probability.tobytes() == second.inclusion_probability.tobytes()


@pytest.mark.parametrize("sampler", ["ipdpp", "uniform", "feature_kdpp"])
def test_another_seed_round_or_label_gives_another_draw(data, sampler):
    given = arguments(data, sampler)
    first = select(k=10, seed=3, round=2, **given)
    members = {label: np.flatnonzero(data["y"] == label) for label in range(2)}
    for other in (select(k=10, seed=4, round=2, **given), select(k=10, seed=3, round=3, **given)):
        for items in members.values():
            assert not np.array_equal(np.intersect1d(first.indices, items), np.intersect1d(other.indices, items))
    given["y"] = data["y"] + 5
    assert not np.array_equal(select(k=10, seed=3, round=2, **given).indices, first.indices)


@pytest.mark.parametrize("sampler", ["ipdpp", "uniform", "feature_kdpp"])
def test_draw_of_a_class_does_not_depend_on_other_classes(data, sampler):
    given = arguments(data, sampler)
    together = select(k=10, seed=1, **given)
    order = np.argsort(-data["y"], kind="stable")  # classes back to front, each in its own order
    turned = select(k=10, seed=1, **{key: v[order] if isinstance(v, np.ndarray) else v for key, v in given.items()})
    assert np.sort(order[turned.indices]).tolist() == together.indices.tolist()
    for label in range(4):
        alone = np.flatnonzero(data["y"] == label)
        chosen = select(k=10, seed=1, **{key: v[alone] if isinstance(v, np.ndarray) else v for key, v in given.items()})
        assert alone[chosen.indices].tolist() == together.indices[data["y"][together.indices] == label].tolist()


def test_numpy_seeds_and_labels_are_the_same_as_those_of_python(data):
    expected = select(k=10, seed=1, round=2, **arguments(data, "ipdpp")).indices
    given = arguments(data, "ipdpp") | {"y": data["y"].astype(np.uint8)}
    assert select(k=np.int32(10), seed=np.int64(1), round=np.uint8(2), **given).indices.tolist() == expected.tolist()


@pytest.mark.parametrize("scale", ["n", "n2"])
def test_ipdpp_is_the_process_of_each_class(data, scale):
    chosen = select(data["y"], 10, probability=data["probability"], scale=scale)
    for label in range(3):
        items = data["y"] == label
        known = Information.from_probability(data["probability"][items], scale)
        expected = RankOneKDPP(known.d, known.r, 10).inclusion_probability()
        np.testing.assert_array_equal(chosen.inclusion_probability[items], expected)


def test_log_probabilities_and_float32_are_accepted(data):
    p = data["probability"]
    exact = select(data["y"], 10, probability=p).inclusion_probability
    by_log = select(data["y"], 10, log_probability=np.log(p)).inclusion_probability
    by_float32 = select(data["y"], 10, probability=p.astype(np.float32)).inclusion_probability
    np.testing.assert_allclose(by_log, exact, rtol=1e-12)
    np.testing.assert_allclose(by_float32, exact, rtol=1e-5)
    assert by_float32.dtype == np.float64


def test_uniform_official_is_the_released_draw_whatever_is_given(data):
    chosen = select(k=10, seed=9, round=4, **arguments(data, "uniform_official"))
    expected = [
        np.flatnonzero(data["y"] == label)[positions] for label, positions in enumerate(uniform_official(COUNTS, 10))
    ]
    assert chosen.indices.tolist() == sorted(np.concatenate(expected).tolist())
    assert select(data["y"], 10, sampler="uniform_official").indices.tolist() == chosen.indices.tolist()


def test_sizes_per_class_as_array_and_mapping(data):
    p = data["probability"]
    assert select(data["y"], np.array([5, 0, 3, 1]), probability=p).kept == {0: 5, 1: 0, 2: 3, 3: 1}
    assert select(data["y"], [5, 0, 3, 1], probability=p).kept == {0: 5, 1: 0, 2: 3, 3: 1}
    chosen = select(data["y"], {0: 5, 2: 3}, probability=p)
    assert chosen.kept == {0: 5, 1: 25, 2: 3, 3: 1}
    assert (chosen.inclusion_probability[data["y"] == 1] == 1).all()


@pytest.mark.parametrize(
    ("counts", "size", "total"),
    [
        ([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], 500, 3391),
        ([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50], "10*n_min", 3391),
        ([5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25], "10*n_min", 1797),
        ([5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500], "10 * n_min", 20431),
        ([int(500 * 0.01 ** (c / 99)) for c in range(100)], 50, 3446),
        ([int(500 * 0.005 ** (c / 99)) for c in range(100)], "10*n_min", 1524),
    ],
)
def test_subset_sizes_of_long_tailed_cifar(counts, size, total):
    assert len(select(np.repeat(np.arange(len(counts)), counts), size, sampler="uniform").indices) == total


def test_k_of_zero_selects_nothing(data):
    chosen = select(data["y"], 0, probability=data["probability"])
    assert chosen.indices.tolist() == [] and not chosen.inclusion_probability.any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_small_classes_are_kept_without_a_draw(data, sampler, monkeypatch):
    monkeypatch.setattr("longtail.methods.ipdpp.selection.generator", None)  # calling it would raise
    chosen = select(k=60, **arguments(data, sampler))
    assert chosen.indices.tolist() == list(range(98)) and (chosen.inclusion_probability == 1).all()


@pytest.mark.parametrize(("k", "empty"), [({0: 5, 7: 5}, 7), ([5, 5, 5, 5, 5], 4)])
def test_class_without_items_is_empty_and_warned_of(data, k, empty):
    with pytest.warns(UserWarning, match=f"class {empty} has no items"):
        chosen = select(data["y"], k, probability=data["probability"])
    assert chosen.available[empty] == chosen.kept[empty] == 0
    assert chosen.kept[0] == 5


def test_no_items_at_all():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for k in (5, "10*n_min"):
            chosen = select(np.empty(0, int), k, probability=np.empty(0))
            assert chosen.indices.dtype == np.int64 and chosen.indices.shape == (0,) and chosen.kept == {}


def test_labels_may_be_strings(data):
    names = np.array(["ant", "bee", "cat", "dog"])[data["y"]]
    chosen = select(names, {"ant": 4, "bee": 2}, probability=data["probability"])
    assert chosen.kept == {"ant": 4, "bee": 2, "cat": 12, "dog": 1}


def test_features_choose_diverse_items():
    centers = np.repeat(np.eye(6), 20, axis=0)
    noise = 0.01 * np.random.default_rng(0).normal(size=centers.shape)
    chosen = select(np.zeros(120, int), 6, features=centers + noise, sampler="feature_kdpp")
    assert sorted(chosen.indices // 20) == [0, 1, 2, 3, 4, 5]


def test_length_of_features_does_not_matter_but_quality_does(data):
    y, p, features = data["y"], data["probability"], data["features"]
    scaled = features * np.linspace(0.1, 9, 98)[:, None]
    plain = select(y, 10, features=features, sampler="feature_kdpp").inclusion_probability
    np.testing.assert_allclose(
        select(y, 10, features=scaled, sampler="feature_kdpp").inclusion_probability, plain, rtol=1e-9
    )
    chosen = select(y, 10, features=features, probability=p, beta=2.0, epsilon=0.1, sampler="feature_kdpp")
    items = y == 0
    unit = features[items] / np.linalg.norm(features[items], axis=1, keepdims=True)
    expected = LowRankKDPP(unit * (0.1 - np.log(p[items]))[:, None], 10).inclusion_probability()
    np.testing.assert_allclose(chosen.inclusion_probability[items], expected, rtol=1e-9)
    assert chosen.inclusion_probability[items] @ p[items] < plain[items] @ p[items]


def test_k_above_the_rank_names_the_class_and_a_ridge_admits_it(data):
    given = arguments(data, "feature_kdpp")
    with pytest.raises(ConfigError, match="class 0: k must be at most 16, the rank of the features, got 20"):
        select(k=20, **given)
    assert select(k=20, ridge=0.1, **given).kept[0] == 20


@pytest.mark.parametrize("bad", [np.nan, 1.5, -0.1, np.inf])
@pytest.mark.parametrize("label", [0, 3])
def test_probability_that_is_none_names_its_class_even_where_nothing_is_drawn(data, bad, label):
    p = data["probability"]
    p[np.flatnonzero(data["y"] == label)[0]] = bad
    with pytest.raises(DataError, match=rf"probability of class {label} must be finite and in \[0, 1\]"):
        select(data["y"], 10, probability=p)


@pytest.mark.parametrize(
    ("changes", "error", "reason"),
    [
        ({"probability": None}, ConfigError, "probability or log_probability must be given for sampler ipdpp"),
        (
            {"log_probability": np.zeros(98)},
            ConfigError,
            "exactly one of probability and log_probability must be given, got both",
        ),
        ({"probability": np.ones(97)}, DataError, r"probability must have shape \(98,\), got \(97,\)"),
        ({"y": np.zeros((98, 1))}, DataError, r"y must have shape \(N,\), got \(98, 1\)"),
        ({"sampler": "random"}, ConfigError, "sampler must be one of ipdpp, uniform, .* got 'random'"),
        ({"scale": "n3"}, ConfigError, "scale must be one of n, n2, got 'n3'"),
        ({"k": -1}, ConfigError, "k must be an integer of at least 0, got -1 for class 0"),
        ({"k": 2.5}, ConfigError, "k must be an integer of at least 0, got 2.5"),
        ({"k": {1: True}}, ConfigError, "k must be an integer of at least 0, got True for class 1"),
        ({"k": "ten"}, ConfigError, "multiple of the smallest class"),
        ({"k": [5, 5]}, ConfigError, "k must have an integer for class 2, got 2 integers"),
        (
            {"k": [5, 5, 5, 9], "sampler": "uniform_official"},
            ConfigError,
            "k must be the same for all classes with sampler uniform_official",
        ),
        ({"k": 0, "sampler": "uniform_official"}, ConfigError, "at least 1"),
        ({"sampler": "feature_kdpp"}, ConfigError, "features must be given for sampler feature_kdpp"),
        (
            {"sampler": "feature_kdpp", "features": np.ones((9, 2))},
            DataError,
            "features must have 98 rows, one per label, got 9",
        ),
        (
            {"sampler": "feature_kdpp", "features": np.ones((98, 2)), "probability": None, "beta": 1.0},
            ConfigError,
            "probability or log_probability must be given",
        ),
        ({"sampler": "feature_kdpp", "features": np.ones((98, 2)), "beta": np.nan}, ConfigError, "beta must be finite"),
        (
            {"sampler": "feature_kdpp", "features": np.ones((98, 2)), "epsilon": 0},
            ConfigError,
            "epsilon must be finite",
        ),
    ],
)
def test_unusable_arguments_are_refused(data, changes, error, reason):
    given = {"y": data["y"], "k": 10, "probability": data["probability"], **changes}
    with pytest.raises(error, match=reason):
        select(**given)
