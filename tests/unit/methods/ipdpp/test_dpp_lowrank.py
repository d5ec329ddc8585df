"""The dual sampler of feature kernels, beyond what enumeration shows."""

import tracemalloc

import numpy as np
import pytest
from dppy.finite_dpps import FiniteDPP

from longtail.core.errors import ConfigError, DataError
from longtail.methods.ipdpp import LowRankKDPP

ALGORITHMS = ("rejection", "chain")


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(30, 8))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_marginals_agree_with_dppy(features, algorithm):
    k, draws = 5, 4000
    process, stream = LowRankKDPP(features, k, algorithm=algorithm), np.random.default_rng(1)
    exact = process.inclusion_probability()
    error = np.sqrt(exact * (1 - exact) / draws)
    oracle, legacy = FiniteDPP("likelihood", L=features @ features.T), np.random.RandomState(0)
    for drawn in (
        [process.sample(stream) for _ in range(draws)],
        [oracle.sample_exact_k_dpp(k, random_state=legacy) for _ in range(draws)],
    ):
        empirical = np.bincount(np.concatenate(drawn), minlength=30) / draws
        assert (np.abs(empirical - exact) < 4.5 * error).all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_k_of_the_full_rank_draws_distinct_items(algorithm):
    features = np.random.default_rng(0).normal(size=(400, 60)).astype(np.float32)
    process, stream = LowRankKDPP(features, 60, algorithm=algorithm), np.random.default_rng(0)
    for _ in range(5):
        drawn = process.sample(stream)
        assert len(set(drawn.tolist())) == 60
        assert np.linalg.matrix_rank(features[drawn]) == 60
    assert process.inclusion_probability().sum() == pytest.approx(60, rel=1e-10)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_duplicate_rows_are_never_drawn_together_without_a_ridge(algorithm):
    features = np.repeat(np.random.default_rng(0).normal(size=(5, 5)), 3, axis=0)
    process, stream = LowRankKDPP(features, 4, algorithm=algorithm), np.random.default_rng(0)
    for _ in range(200):
        assert len(set((process.sample(stream) // 3).tolist())) == 4


def test_zero_rows_are_drawn_by_the_ridge_alone(features):
    features[10:20] = 0
    assert not LowRankKDPP(features, 4).inclusion_probability()[10:20].any()
    assert (LowRankKDPP(features, 4, ridge=0.1).inclusion_probability()[10:20] > 0).all()


def test_k_above_the_rank_asks_for_a_ridge(features):
    with pytest.raises(ConfigError, match=r"k must be at most 8, the rank of the features, got 9; ridge > 0 allows"):
        LowRankKDPP(features, 9)
    process = LowRankKDPP(features, 20, ridge=1e-3)
    assert len(set(process.sample(np.random.default_rng(0)).tolist())) == 20
    assert process.inclusion_probability().sum() == pytest.approx(20, rel=1e-12)


def test_rank_is_that_of_the_features_and_not_their_width():
    stream = np.random.default_rng(0)
    assert LowRankKDPP(stream.normal(size=(50, 3)) @ stream.normal(size=(3, 20)), 2).rank_ == 3
    assert LowRankKDPP(np.zeros((4, 3)), 0).rank_ == 0
    assert LowRankKDPP(np.zeros((0, 3)), 0).sample(stream).shape == (0,)


def test_large_ridge_is_the_uniform_limit_and_small_ridge_the_plain_process(features):
    np.testing.assert_allclose(LowRankKDPP(features, 6, ridge=1e9).inclusion_probability(), 0.2, rtol=1e-6)
    np.testing.assert_allclose(
        LowRankKDPP(features, 6, ridge=1e-12).inclusion_probability(),
        LowRankKDPP(features, 6).inclusion_probability(),
        rtol=1e-9,
    )


@pytest.mark.parametrize("smallest", [1e-3, 1e-5, 3e-7])
def test_ill_conditioned_features_keep_exact_inclusion_probabilities(smallest):
    stream = np.random.default_rng(0)
    rotation = np.linalg.qr(stream.normal(size=(3, 3)))[0]
    features = stream.normal(size=(50, 3)) * [1.0, 0.5, smallest] @ rotation
    left = np.linalg.svd(features, full_matrices=False)[0]
    np.testing.assert_allclose(LowRankKDPP(features, 3).inclusion_probability(), (left**2).sum(axis=1), atol=1e-8)

    gram = features @ features.T
    pairs = np.outer(gram.diagonal(), gram.diagonal()) - gram**2
    expected = 2 * pairs.sum(axis=1) / pairs.sum()
    np.testing.assert_allclose(LowRankKDPP(features, 2).inclusion_probability(), expected, atol=1e-8)


def test_scale_of_the_features_does_not_matter(features):
    expected = LowRankKDPP(features, 5)
    for factor in (1e-100, 1e100):
        scaled = LowRankKDPP(features * factor, 5)
        np.testing.assert_allclose(scaled.inclusion_probability(), expected.inclusion_probability(), rtol=1e-10)
        draws = [process.sample(np.random.default_rng(0)).tolist() for process in (scaled, expected)]
        assert draws[0] == draws[1]


def test_block_size_does_not_change_the_draw(features, monkeypatch):
    before = LowRankKDPP(features, 5)
    monkeypatch.setattr("longtail.methods.ipdpp.spectrum.BLOCK_BYTES", 1000)
    after = LowRankKDPP(features, 5)
    np.testing.assert_allclose(after.inclusion_probability(), before.inclusion_probability(), rtol=1e-12)
    assert after.sample(np.random.default_rng(0)).tolist() == before.sample(np.random.default_rng(0)).tolist()


def test_memory_is_linear_in_the_number_of_items():
    n = 100_000
    features = np.random.default_rng(0).normal(size=(n, 16)).astype(np.float32)
    tracemalloc.start()
    process = LowRankKDPP(features, 10)
    process.sample(np.random.default_rng(0))
    process.inclusion_probability()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 * 8 * n


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.ones(4), r"features must be an \(n, D\) array of real numbers"),
        (np.ones((4, 2), dtype=complex), "real numbers, got complex128"),
        (np.array([[1.0, np.nan]]), "features must be finite"),
    ],
)
def test_features_that_are_none_are_refused(bad, reason):
    with pytest.raises(DataError, match=reason):
        LowRankKDPP(bad, 1)


@pytest.mark.parametrize("ridge", [-1.0, np.nan, np.inf])
def test_ridge_out_of_range_is_refused(features, ridge):
    with pytest.raises(ConfigError, match="ridge must be a finite number of at least 0"):
        LowRankKDPP(features, 2, ridge=ridge)


def test_unknown_algorithm_is_refused(features):
    with pytest.raises(ConfigError, match="algorithm must be one of rejection, chain"):
        LowRankKDPP(features, 2, algorithm="mcmc")


@pytest.mark.parametrize("ridge", [1e-300, 1e-30, 1e-17, 1e-16, 1e-8])
def test_tiny_ridge_with_k_above_the_rank_draws_k_items(ridge):
    """The items of the full rank come with a probability that rounds to 1, the others are uniform among the rest."""
    rows = np.random.default_rng(0).normal(size=(40, 5))
    process = LowRankKDPP(rows, 9, ridge)
    drawn = process.sample(np.random.default_rng(1))
    assert len(set(drawn.tolist())) == 9
    assert process.inclusion_probability().sum() == pytest.approx(9)
