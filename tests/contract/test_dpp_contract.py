"""Every k-DPP follows its distribution exactly and keeps the promises that all of them share."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from imblearn.utils.estimator_checks import check_param_validation, parametrize_with_checks
from scipy.stats import chisquare

import longtail.methods.ipdpp as dpp
from longtail.core.errors import ConfigError
from longtail.methods.ipdpp import DPPyKDPP, Information, IPDPPSampler, LowRankKDPP, RankOneKDPP, ipdpp_kernel

DRAWS = 40_000
DRAWS_OF_DPPY = 10_000  # five times slower, and not our code
P = np.array([0.02, 0.3, 0.55, 0.55, 0.8, 0.93, 0.99, 1.0])
_stream = np.random.default_rng(3)
RANK_5, RANK_2, WIDE = (_stream.normal(size=shape) for shape in [(8, 5), (8, 2), (6, 9)])
TWINS = np.repeat(_stream.normal(size=(4, 3)), 2, axis=0)


def of_probabilities(scale, algorithm):
    known = Information.from_probability(P, scale)
    return lambda k: RankOneKDPP(known.d, known.r, k, algorithm)


def of_features(features, **arguments):
    return lambda k: LowRankKDPP(features, k, **arguments)


def gram(features, ridge=0.0):
    return features @ features.T + ridge * np.eye(len(features))


# name: (k -> the process, its kernel L, the k to enumerate)
CASES = {
    "ipdpp-n-tables": (of_probabilities("n", "tables"), ipdpp_kernel(P, "n"), 3),
    "ipdpp-n-rejection": (of_probabilities("n", "rejection"), ipdpp_kernel(P, "n"), 3),
    "ipdpp-n2-tables": (of_probabilities("n2", "tables"), ipdpp_kernel(P, "n2"), 3),
    "ipdpp-n2-rejection": (of_probabilities("n2", "rejection"), ipdpp_kernel(P, "n2"), 3),
    "features-rejection": (of_features(RANK_5), gram(RANK_5), 3),
    "features-chain": (of_features(RANK_5, algorithm="chain"), gram(RANK_5), 3),
    "more-features-than-items": (of_features(WIDE), gram(WIDE), 4),
    "duplicate-rows": (of_features(TWINS, algorithm="chain"), gram(TWINS), 2),
    "ridge-rejection": (of_features(RANK_2, ridge=0.3), gram(RANK_2, 0.3), 4),
    "ridge-chain": (of_features(RANK_2, ridge=0.3, algorithm="chain"), gram(RANK_2, 0.3), 4),
    "ridge-of-duplicates": (of_features(TWINS, ridge=0.1), gram(TWINS, 0.1), 5),
    "dppy-kernel": (lambda k: DPPyKDPP(k, kernel=gram(WIDE)), gram(WIDE), 2),
    "dppy-features": (lambda k: DPPyKDPP(k, features=RANK_5), gram(RANK_5), 3),
}
DRAWN = [name for name in CASES if name != "dppy-features"]  # it draws as dppy-kernel does, slowly

every_case = pytest.mark.parametrize("name", CASES)


def enumerated(kernel, k):
    """All subsets of size k with their probabilities, from determinants."""
    subsets = list(itertools.combinations(range(len(kernel)), k))
    weight = np.array([np.linalg.det(kernel[np.ix_(subset, subset)]) for subset in subsets]).clip(1e-14)
    return subsets, weight / weight.sum()


def inclusion_of(subsets, probability, n):
    inclusion = np.zeros(n)
    for subset, value in zip(subsets, probability, strict=True):
        inclusion[list(subset)] += value
    return inclusion


@pytest.mark.parametrize("name", DRAWN)
def test_draws_follow_the_exact_distribution_of_subsets(name):
    build, kernel, k = CASES[name]
    subsets, probability = enumerated(kernel, k)
    position = {subset: i for i, subset in enumerate(subsets)}
    process, stream = build(k), np.random.default_rng(11)
    counts, draws = np.zeros(len(subsets)), DRAWS_OF_DPPY if name == "dppy-kernel" else DRAWS
    for _ in range(draws):
        counts[position[tuple(process.sample(stream).tolist())]] += 1

    rare = probability * draws < 5
    observed, expected = counts[~rare], probability[~rare] * draws
    if rare.any():
        assert counts[rare].sum() <= 20 + 2 * probability[rare].sum() * draws
        expected *= observed.sum() / expected.sum()
    assert chisquare(observed, expected).pvalue > 1e-3

    exact = inclusion_of(subsets, probability, len(kernel))
    empirical = inclusion_of(subsets, counts / draws, len(kernel))
    assert (np.abs(empirical - exact) <= 4.5 * np.sqrt(exact * (1 - exact) / draws) + 1e-12).all()


@every_case
@pytest.mark.parametrize("k", [1, 2, 3])
def test_inclusion_probabilities_are_those_of_enumeration(name, k):
    build, kernel, _ = CASES[name]
    exact = inclusion_of(*enumerated(kernel, k), len(kernel))
    inclusion = build(k).inclusion_probability()
    assert inclusion.dtype == np.float64
    np.testing.assert_allclose(inclusion, exact, rtol=1e-10, atol=1e-11)
    assert inclusion.sum() == pytest.approx(k, abs=1e-12)


@every_case
def test_draw_is_sorted_distinct_int64(name):
    build, kernel, k = CASES[name]
    process, stream = build(k), np.random.default_rng(0)
    for _ in range(50):
        drawn = process.sample(stream)
        assert drawn.dtype == np.int64 and drawn.shape == (k,)
        assert (np.diff(drawn) > 0).all() and drawn[0] >= 0 and drawn[-1] < len(kernel)


@every_case
def test_same_stream_draws_the_same_items_and_global_state_is_left_alone(name):
    build, _, k = CASES[name]
    before = np.random.get_state()[1].tobytes()
    first, second = (
        [build(k).sample(stream).tobytes() for _ in range(5)] for stream in (np.random.default_rng(5) for _ in "ab")
    )
    assert first == second
    assert np.random.get_state()[1].tobytes() == before


@every_case
def test_one_object_may_be_drawn_from_again_and_again(name):
    build, _, k = CASES[name]
    process, stream = build(k), np.random.default_rng(0)
    assert len({tuple(process.sample(stream)) for _ in range(50)}) > 1


@every_case
def test_k_of_zero_draws_nothing(name):
    process = CASES[name][0](0)
    drawn = process.sample(np.random.default_rng(0))
    assert drawn.dtype == np.int64 and drawn.shape == (0,)
    assert not process.inclusion_probability().any()


@pytest.mark.parametrize(
    "name", [name for name in CASES if "ipdpp" in name or "ridge" in name or name == "dppy-kernel"]
)
def test_k_of_n_draws_every_item(name):
    build, kernel, _ = CASES[name]
    process = build(len(kernel))
    assert process.sample(np.random.default_rng(0)).tolist() == list(range(len(kernel)))
    np.testing.assert_allclose(process.inclusion_probability(), 1.0, atol=1e-12)


@every_case
@pytest.mark.parametrize("k", [-1, 2.0, True, "3", None])
def test_k_that_is_no_size_is_refused(name, k):
    with pytest.raises(ConfigError, match="k must be an integer from 0 to"):
        CASES[name][0](k)


@every_case
def test_k_above_n_is_refused(name):
    build, kernel, _ = CASES[name]
    with pytest.raises(ConfigError, match=f"from 0 to {len(kernel)}, the number of items, got {len(kernel) + 1}"):
        build(len(kernel) + 1)


@every_case
def test_nothing_is_printed(name, capsys):
    build, _, k = CASES[name]
    build(k).sample(np.random.default_rng(0))
    assert capsys.readouterr() == ("", "")


@parametrize_with_checks([IPDPPSampler(random_state=42), IPDPPSampler(scale="n2", random_state=0)])
def test_estimator_keeps_the_contract_of_imbalanced_learn(estimator, check):
    check(estimator)


def test_estimator_names_a_parameter_of_wrong_type():
    check_param_validation("IPDPPSampler", IPDPPSampler())


def test_package_needs_no_torch_and_neither_dppy_nor_imbalanced_learn_before_their_use():
    program = (
        "import sys; from longtail.methods.ipdpp import LowRankKDPP, RankOneKDPP, DPPyKDPP, select, uniform_official; "
        "heavy = {'torch', 'dppy', 'imblearn', 'matplotlib', 'sklearn'} & set(sys.modules); "
        "from longtail.methods.ipdpp import IPDPPSampler; sys.exit(bool(heavy) or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_package_lists_its_names_and_refuses_others():
    assert set(dpp.__all__) <= set(dir(dpp))
    assert all(getattr(dpp, name) for name in dpp.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        dpp.Nothing  # noqa: B018
