"""The backend dppy: what it takes, and what it refuses instead of returning wrong samples."""

import numpy as np
import pytest

from longtail.core.errors import ConfigError, DataError
from longtail.methods.ipdpp import DPPyKDPP, LowRankKDPP, ipdpp_kernel


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(30, 8))


def test_kernel_and_features_are_the_same_process(features):
    by_kernel, by_features = DPPyKDPP(5, kernel=features @ features.T), DPPyKDPP(5, features=features)
    expected = LowRankKDPP(features, 5).inclusion_probability()
    np.testing.assert_allclose(by_kernel.inclusion_probability(), expected, atol=1e-10)
    np.testing.assert_allclose(by_features.inclusion_probability(), expected, atol=1e-10)


def test_scale_of_the_kernel_does_not_matter(features):
    kernel = features @ features.T
    draws = [DPPyKDPP(5, kernel=kernel * factor).sample(np.random.default_rng(0)) for factor in (1, 1e-80, 1e80)]
    assert draws[0].tolist() == draws[1].tolist() == draws[2].tolist()


def test_large_k_inside_the_safe_range_is_drawn_correctly():
    p = np.linspace(0.01, 0.99, 900)
    process = DPPyKDPP(150, kernel=ipdpp_kernel(p))
    drawn = process.sample(np.random.default_rng(0))
    assert len(set(drawn.tolist())) == 150
    inclusion = process.inclusion_probability()
    spread = np.sqrt((inclusion * (1 - inclusion)) @ (p - p.mean()) ** 2) / 150
    assert abs(p[drawn].mean() - inclusion @ p / 150) < 4 * spread


def test_too_many_items_are_refused():
    with pytest.raises(ConfigError, match=r"n must be at most 2000 items .*, got 2001; use RankOneKDPP .* LowRankKDPP"):
        DPPyKDPP(2, features=np.ones((2001, 3)))


def test_polynomials_that_would_overflow_are_refused():
    with pytest.raises(ConfigError, match=r"subsets must be less than 1e300 .* \(500 of 1999 items\); use RankOneKDPP"):
        DPPyKDPP(500, kernel=np.eye(1999))


def test_decaying_spectra_that_would_overflow_are_refused():
    with pytest.raises(ConfigError, match=r"would overflow on eigenvalues from 1\.0e-10 to 1\.0e\+00; use RankOneKDPP"):
        DPPyKDPP(290, kernel=np.diag(np.repeat([1.0, 1e-10], [150, 150])))


def test_k_above_the_rank_is_refused(features):
    with pytest.raises(ConfigError, match="k must be at most 8, the rank of the kernel, got 9"):
        DPPyKDPP(9, features=features)


@pytest.mark.parametrize(
    ("kernel", "reason"),
    [
        (np.ones((2, 3)), r"kernel must be an \(n, n\) array"),
        (np.eye(3) * 1j, "array of real numbers"),
        (np.array([[1.0, np.inf], [np.inf, 1.0]]), "kernel must be finite"),
        (np.diag([1.0, -0.5]), "positive semidefinite, got a smallest eigenvalue of -0.5"),
    ],
)
def test_kernel_that_is_none_is_refused(kernel, reason):
    with pytest.raises(DataError, match=reason):
        DPPyKDPP(1, kernel=kernel)


def test_asymmetry_beyond_the_corner_that_dppy_looks_at_is_refused():
    kernel = np.eye(40)
    kernel[30, 35] = 0.5
    with pytest.raises(DataError, match="kernel must be symmetric"):
        DPPyKDPP(2, kernel=kernel)


@pytest.mark.parametrize("arguments", [{}, {"kernel": np.eye(3), "features": np.eye(3)}])
def test_exactly_one_of_kernel_and_features_is_taken(arguments):
    with pytest.raises(ConfigError, match="exactly one of kernel and features"):
        DPPyKDPP(1, **arguments)
