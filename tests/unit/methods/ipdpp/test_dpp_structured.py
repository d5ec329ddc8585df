"""The sampler of diagonal plus rank one, beyond the sizes that can be enumerated."""

import tracemalloc

import numpy as np
import pytest
from dppy.finite_dpps import FiniteDPP
from scipy.stats import chisquare

from longtail.core.errors import ConfigError, DataError
from longtail.methods.ipdpp import Information, RankOneKDPP, ipdpp_kernel

ALGORITHMS = ("tables", "rejection")


def process_of(p, k, scale="n", algorithm="auto"):
    known = Information.from_probability(p, scale)
    return RankOneKDPP(known.d, known.r, k, algorithm)


def beta(mean, n, seed=0):
    return np.random.default_rng(seed).beta(20 * mean, 20 * (1 - mean), n)


def log_weight_of_all_subsets(d, r, k):
    """Sum over all subsets of size k by the recurrence over items, in logarithms."""
    plain, full = np.full(k + 1, -np.inf), np.full(k + 1, -np.inf)
    plain[0] = full[0] = 0.0
    log_u2s = np.log(np.maximum(d * r, 1e-300))
    for log_d, log_u2 in zip(np.log(d), log_u2s, strict=True):
        with_d, by_rank_one = log_d + full[:-1], log_u2 + plain[:-1]
        full[1:] = np.logaddexp(full[1:], np.logaddexp(with_d, by_rank_one))
        plain[1:] = np.logaddexp(plain[1:], log_d + plain[:-1])
    return full[k]


POPULATIONS = {
    "ordinary": beta(0.6, 300),
    "well known": beta(0.99, 300),
    "three unknown among certain": np.r_[np.full(297, 1 - 1e-12), 0.0, 0.1, 0.5],
    "certain among unknown": np.r_[np.full(290, 1e-9), np.full(10, 1 - 1e-11)],
    "equal": np.full(300, 0.4),
}


@pytest.mark.parametrize("scale", ["n", "n2"])
@pytest.mark.parametrize("k", [1, 40, 150, 299])
@pytest.mark.parametrize("name", POPULATIONS)
def test_inclusion_probability_is_that_of_the_recurrence_without_the_item(name, k, scale):
    known = Information.from_probability(POPULATIONS[name], scale)
    inclusion = RankOneKDPP(known.d, known.r, k).inclusion_probability()
    everything = log_weight_of_all_subsets(known.d, known.r, k)
    for item in (0, 150, 297, 298, 299):
        without = log_weight_of_all_subsets(np.delete(known.d, item), np.delete(known.r, item), k)
        assert inclusion[item] == pytest.approx(-np.expm1(without - everything), abs=1e-9)


@pytest.mark.parametrize("k", [1, 3, 500, 50_000, 99_999])
@pytest.mark.parametrize("mean", [0.1, 0.5, 0.999])
def test_inclusion_probabilities_sum_to_k_and_fall_with_p(mean, k):
    p = np.sort(beta(mean, 100_000))
    inclusion = process_of(p, k).inclusion_probability()
    assert inclusion.sum() == pytest.approx(k, rel=1e-12)
    assert ((inclusion >= 0) & (inclusion <= 1)).all()
    assert (np.diff(inclusion) <= 1e-12).all() and inclusion[0] > inclusion[-1]


@pytest.mark.parametrize("scale", ["n", "n2"])
def test_both_algorithms_and_dppy_agree_on_the_marginals(scale):
    n, k, draws = 30, 6, 4000
    p = np.linspace(0.05, 0.98, n)
    exact = process_of(p, k, scale).inclusion_probability()
    error = np.sqrt(exact * (1 - exact) / draws)

    oracle, legacy = FiniteDPP("likelihood", L=ipdpp_kernel(p, scale)), np.random.RandomState(0)
    samples = {"dppy": [oracle.sample_exact_k_dpp(k, random_state=legacy) for _ in range(draws)]}
    for algorithm in ALGORITHMS:
        process, stream = process_of(p, k, scale, algorithm), np.random.default_rng(1)
        samples[algorithm] = [process.sample(stream) for _ in range(draws)]
    for name, drawn in samples.items():
        empirical = np.bincount(np.concatenate(drawn), minlength=n) / draws
        assert (np.abs(empirical - exact) < 4.5 * error).all(), name


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("k", [50, 1000, 1950])
def test_mean_p_of_large_draws_is_that_of_the_inclusion_probabilities(algorithm, k):
    p = beta(0.8, 2000)
    process, stream = process_of(p, k, algorithm=algorithm), np.random.default_rng(0)
    inclusion = process.inclusion_probability()
    means = np.array([p[process.sample(stream)].mean() for _ in range(60)])
    assert abs(means.mean() - inclusion @ p / k) < 4.5 * means.std(ddof=1) / np.sqrt(60)
    assert inclusion @ p / k < p.mean()


def test_paper_scale_prefers_items_of_low_p_and_released_scale_does_not():
    p, stream = beta(0.5, 5000), np.random.default_rng(0)
    paper, released = process_of(p, 500, "n"), process_of(p, 500, "n2")
    assert all(p[paper.sample(stream)].mean() < p.mean() for _ in range(20))
    shift = np.array([p[released.sample(stream)].mean() - p.mean() for _ in range(20)])
    assert abs(shift.mean()) < 4 * shift.std(ddof=1) / np.sqrt(20)


@pytest.mark.parametrize("scale", ["n", "n2"])
@pytest.mark.parametrize("p", [0.0, 0.4, 1.0, np.float32(1 - 1e-7)])
def test_equal_probabilities_make_every_subset_as_likely(p, scale):
    same = np.full(7, p)
    np.testing.assert_allclose(process_of(same, 3, scale).inclusion_probability(), 3 / 7, rtol=1e-12)
    for algorithm in ALGORITHMS:
        process, stream = process_of(same, 3, scale, algorithm), np.random.default_rng(2)
        drawn = [tuple(process.sample(stream)) for _ in range(3500)]
        counts = np.unique(drawn, axis=0, return_counts=True)[1]
        assert len(counts) == 35 and chisquare(counts).pvalue > 1e-3


def test_probabilities_below_rounding_of_one_are_the_uniform_limit():
    p = 1 - np.array([1e-13, 1e-15, 0, 4e-16, 1e-14])
    np.testing.assert_allclose(process_of(p, 2).inclusion_probability(), 0.4, rtol=1e-12)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_odds_over_twenty_orders_of_magnitude_stay_exact(algorithm):
    d = np.logspace(-20, 0, 9)
    process = RankOneKDPP(d, np.zeros(9), 4, algorithm)
    inclusion = process.inclusion_probability()
    everything = log_weight_of_all_subsets(d, np.zeros(9), 4)
    for item in range(9):
        others = log_weight_of_all_subsets(np.delete(d, item), np.zeros(8), 3)
        assert inclusion[item] == pytest.approx(np.exp(np.log(d[item]) + others - everything), rel=1e-6, abs=1e-14)
    stream = np.random.default_rng(0)
    assert np.mean([set(process.sample(stream)) == {5, 6, 7, 8} for _ in range(300)]) > 0.95


def test_auto_takes_tables_for_small_classes_and_rejection_for_large():
    p = beta(0.5, 2000)
    assert process_of(p[:100], 50).algorithm == "tables"
    assert process_of(p, 500).algorithm == "rejection"


def test_memory_is_linear_in_the_number_of_items():
    n, k = 100_000, 500
    p, stream = beta(0.9, n), np.random.default_rng(0)
    tracemalloc.start()
    process = process_of(p, k)
    process.sample(stream)
    process.inclusion_probability()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 8 * n


def test_a_million_items_in_one_class():
    n, k = 1_000_000, 500
    p = np.random.default_rng(0).random(n, dtype=np.float32)
    process = process_of(p, k)
    drawn = process.sample(np.random.default_rng(1))
    assert drawn.shape == (k,) and (np.diff(drawn) > 0).all() and drawn[-1] < n
    assert process.inclusion_probability().sum() == pytest.approx(k, rel=1e-11)


def test_certain_draws_leave_the_stream_alone():
    p, stream = beta(0.5, 20), np.random.default_rng(0)
    before = stream.bit_generator.state
    process_of(p, 0).sample(stream)
    process_of(p, 20).sample(stream)
    assert stream.bit_generator.state == before


@pytest.mark.parametrize(
    ("d", "r", "reason"),
    [
        ([1.0, 0.0], [0, 0], "d must be finite and greater than 0"),
        ([1.0, np.nan], [0, 0], "d must be finite"),
        ([1.0, 1.0], [0, -1], "r must be finite and at least 0"),
        ([1.0, 1.0], [0, np.inf], "r must be finite"),
        ([1.0, 1.0], [0], r"r must have shape \(2,\), got \(1,\)"),
    ],
)
def test_kernel_that_is_not_positive_is_refused(d, r, reason):
    with pytest.raises(DataError, match=reason):
        RankOneKDPP(d, r, 1)


def test_unknown_algorithm_is_refused():
    with pytest.raises(ConfigError, match="algorithm must be one of auto, tables, rejection, got 'mcmc'"):
        RankOneKDPP([1.0, 1.0], [0, 0], 1, "mcmc")
