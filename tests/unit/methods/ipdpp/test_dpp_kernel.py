"""The IP-DPP kernel: worked numbers, and the information that it is made of."""

import numpy as np
import pytest

from longtail.core.errors import ConfigError, DataError
from longtail.methods.ipdpp import Information, RankOneKDPP, ipdpp_kernel, log_det_subset

P = np.array([0.2, 0.5, 0.9])


def population(mean, n=5000, seed=0):
    """p of a classifier with this mean p, spread as a beta distribution."""
    return np.random.default_rng(seed).beta(20 * mean, 20 * (1 - mean), n)


@pytest.mark.parametrize(
    ("scale", "diagonal", "off_diagonal", "eigenvalues"),
    [
        ("n", [0.906667, 0.816667, 0.79], [0.033333, 0.06, 0.15], [0.650784, 0.862549, 1]),
        ("n2", [0.968889, 0.938889, 0.93], [0.011111, 0.02, 0.05], [0.883595, 0.954183, 1]),
    ],
)
def test_kernel_of_three_items(scale, diagonal, off_diagonal, eigenvalues):
    kernel = ipdpp_kernel(P, scale)
    np.testing.assert_allclose(kernel.diagonal(), diagonal, atol=1e-6)
    np.testing.assert_allclose(kernel[[0, 0, 1], [1, 2, 2]], off_diagonal, atol=1e-6)
    np.testing.assert_array_equal(kernel, kernel.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(kernel), eigenvalues, atol=1e-6)


def test_normalizer_and_expected_size_of_the_unconstrained_process():
    kernel = ipdpp_kernel(P, "n")
    assert np.linalg.det(kernel + np.eye(3)) == pytest.approx(6.149333, abs=1e-6)
    assert np.trace(kernel @ np.linalg.inv(kernel + np.eye(3))) == pytest.approx(1.357329, abs=1e-6)


@pytest.mark.parametrize(
    ("scale", "determinants", "inclusion"),
    [
        ("n", [0.739333, 0.712667, 0.622667], [0.699871, 0.656491, 0.643638]),
        ("n2", [0.909556, 0.900667, 0.870667], [0.675232, 0.664042, 0.660726]),
    ],
)
def test_pairs_of_three_items(scale, determinants, inclusion):
    known = Information.from_probability(P, scale)
    pairs = [(0, 1), (0, 2), (1, 2)]
    np.testing.assert_allclose(
        [np.exp(log_det_subset(known.d, known.r, pair)) for pair in pairs], determinants, atol=1e-6
    )
    np.testing.assert_allclose(RankOneKDPP(known.d, known.r, 2).inclusion_probability(), inclusion, atol=1e-6)


@pytest.mark.parametrize("scale", ["n", "n2"])
def test_rows_sum_to_one(scale):
    np.testing.assert_allclose(ipdpp_kernel(population(0.7, 200), scale).sum(axis=1), 1.0, rtol=1e-14)


@pytest.mark.parametrize("scale", ["n", "n2"])
def test_log_determinant_is_that_of_slogdet(scale):
    p = population(0.6, 60)
    p[:5] = 0, 1, 1e-9, 1 - 1e-9, 0.5
    known, kernel = Information.from_probability(p, scale), ipdpp_kernel(p, scale)
    for size in (1, 2, 10, 40, 60):
        subset = np.random.default_rng(size).choice(60, size, replace=False)
        expected = np.linalg.slogdet(kernel[np.ix_(subset, subset)])[1]
        assert log_det_subset(known.d, known.r, subset) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_kernels_of_certain_items():
    certain = np.ones(5)
    np.testing.assert_allclose(ipdpp_kernel(certain, "n2"), 0.04 + 0.8 * np.eye(5), atol=1e-11)
    np.testing.assert_allclose(ipdpp_kernel(certain, "n"), np.full((5, 5), 0.2), atol=1e-11)


@pytest.mark.parametrize("scale", ["n", "n2"])
def test_kernel_of_one_and_of_no_item(scale):
    np.testing.assert_allclose(ipdpp_kernel([0.3], scale), [[1.0]], rtol=1e-14)
    assert ipdpp_kernel([], scale).shape == (0, 0)


@pytest.mark.parametrize(
    ("mean", "at_zero", "at_one", "odds_ratio", "odds_ratio_n2"),
    [
        (0.1, 0.1009, 0.0917, 1.11, 1.00002),
        (0.5, 0.1291, 0.0690, 2.00, 1.0001),
        (0.9, 0.369, 0.0558, 9.9, 1.00018),
        (0.99, 0.863, 0.0584, 101, 1.0002),
    ],
)
def test_odds_of_the_least_and_the_best_known_item(mean, at_zero, at_one, odds_ratio, odds_ratio_n2):
    p = population(mean)
    p[:2] = 0, 1
    ratios = []
    for scale in ("n", "n2"):
        known = Information.from_probability(p, scale)
        inclusion = RankOneKDPP(known.d, known.r, 500).inclusion_probability()
        odds = inclusion / (1 - inclusion)
        ratios.append(odds[0] / odds[1])
        if scale == "n":
            np.testing.assert_allclose(inclusion[:2], [at_zero, at_one], rtol=0.01)
    assert ratios[0] == pytest.approx(odds_ratio, rel=0.015)
    assert ratios[1] - 1 == pytest.approx(odds_ratio_n2 - 1, rel=0.05)


@pytest.mark.parametrize(("mean", "before", "after"), [(0.5, 0.718, 0.733), (0.9, 0.109, 0.131), (0.99, 0.010, 0.027)])
def test_mean_information_rises_by_selection(mean, before, after):
    known = Information.from_probability(population(mean))
    inclusion = RankOneKDPP(known.d, known.r, 500).inclusion_probability()
    assert known.content.mean() == pytest.approx(before, rel=0.05)
    assert inclusion @ known.content / 500 == pytest.approx(after, rel=0.05)


@pytest.mark.parametrize(("mean", "scale", "share"), [(0.5, "n", 0.43), (0.9, "n", 0.16), (0.5, "n2", 0.5)])
def test_expected_share_of_the_unconstrained_process(mean, scale, share):
    eigenvalues = np.linalg.eigvalsh(ipdpp_kernel(population(mean, 500), scale))
    assert (eigenvalues / (1 + eigenvalues)).mean() == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize(("mean", "log_det"), [(0.1, -5), (0.5, -148), (0.9, -856)])
def test_determinants_of_large_subsets_need_logarithms(mean, log_det):
    known = Information.from_probability(population(mean))
    subset = np.random.default_rng(0).choice(5000, 500, replace=False)
    assert log_det_subset(known.d, known.r, subset) == pytest.approx(log_det, rel=0.05)


def test_log_probabilities_keep_digits_that_probabilities_lose():
    log_p = np.array([-1e-9, -3e-11, -0.5, -50.0])
    known = Information.from_log_probability(log_p)
    np.testing.assert_allclose(known.q, -np.expm1(log_p), rtol=1e-15)
    np.testing.assert_allclose(known.content, -log_p, rtol=1e-12)
    assert Information.from_log_probability([-np.inf]).p.tolist() == [0.0]


def test_probability_and_its_logarithm_give_the_same_kernel():
    p = population(0.7, 100)
    by_p, by_log = Information.from_probability(p), Information.from_log_probability(np.log(p))
    for name in ("p", "q", "d", "r"):
        np.testing.assert_allclose(getattr(by_log, name), getattr(by_p, name), rtol=1e-12)


@pytest.mark.parametrize("build", [Information.from_probability, lambda p: Information.from_log_probability(np.log(p))])
def test_float32_is_computed_in_float64(build):
    p = np.array([0.1, 0.7, np.nextafter(np.float32(1), np.float32(0)), 1.0], dtype=np.float32)
    known = build(p)
    assert all(array.dtype == np.float64 for array in (known.p, known.q, known.d, known.r))
    assert (known.d > 0).all() and np.isfinite(known.r).all()
    assert known.q[2] == pytest.approx(2.0**-24, rel=1e-6) and known.q[3] == 1e-12


@pytest.mark.parametrize("bad", [-0.1, 1.0000001, np.nan, np.inf, -np.inf])
def test_probability_that_is_none_is_refused_with_its_class(bad):
    with pytest.raises(DataError, match=r"probability of class 7 must be finite and in \[0, 1\], got .* at position 1"):
        Information.from_probability([0.5, bad], label=7)


@pytest.mark.parametrize("bad", [1e-6, np.nan, np.inf])
def test_log_probability_that_is_none_is_refused_with_its_class(bad):
    with pytest.raises(DataError, match="log_probability of class cat must be at most 0 and not NaN, got"):
        Information.from_log_probability([-0.5, bad], label="cat")


@pytest.mark.parametrize("bad", [[[0.5]], 0.5, ["x"]])
def test_probability_that_is_no_vector_of_numbers_is_refused(bad):
    with pytest.raises(DataError, match="probability must"):
        Information.from_probability(bad)


def test_unknown_scale_is_refused():
    with pytest.raises(ConfigError, match="scale must be one of n, n2, got 'sqrt'"):
        Information.from_probability(P, "sqrt")
