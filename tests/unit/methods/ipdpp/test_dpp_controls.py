"""Uniform subsets, and the released procedure bit for bit."""

import numpy as np
import pytest
from dppy.finite_dpps import FiniteDPP
from scipy.stats import chisquare

from longtail.core.errors import ConfigError
from longtail.methods.ipdpp import ipdpp_kernel, uniform, uniform_official


def released_procedure(probabilities, k):
    """What the released code does with the p of each class, from its description, on DPPy's own chain."""
    legacy, drawn = np.random.RandomState(42), []
    for p in reversed(probabilities):
        if len(p) <= k:
            drawn.append(list(range(len(p))))
            continue
        process = FiniteDPP("likelihood", L=ipdpp_kernel(p, "n2").astype(np.float32))
        process.sample_mcmc_k_dpp(size=k, random_state=legacy)
        drawn.append(process.list_of_samples[-1][0])
    return [list(map(int, items)) for items in reversed(drawn)]


def test_official_draw_of_a_single_class():
    (drawn,) = uniform_official([40], 10)
    assert drawn.tolist() == [19, 16, 15, 26, 4, 12, 37, 27, 39, 6]


@pytest.mark.parametrize("counts", [[40, 25, 6], [11, 12, 300], [10, 10], [60, 0, 30, 1, 15]])
@pytest.mark.parametrize("seed", [0, 1])
def test_official_draws_are_those_of_the_chain_whatever_the_model(counts, seed):
    model = np.random.default_rng(seed)
    expected = released_procedure([model.random(count) for count in counts], 10)
    assert [items.tolist() for items in uniform_official(counts, 10)] == expected


def test_official_draw_of_the_first_class_comes_after_the_steps_of_the_second():
    first = np.random.RandomState(42)
    first.choice(25, size=10, replace=False)
    without_steps = first.choice(40, size=10, replace=False)
    drawn = uniform_official([40, 25, 6], 10)
    assert drawn[0].tolist() == [29, 19, 2, 24, 33, 37, 6, 27, 0, 10] != without_steps.tolist()
    assert drawn[1].tolist() == [8, 16, 0, 23, 11, 9, 13, 1, 22, 5]
    assert drawn[2].tolist() == [0, 1, 2, 3, 4, 5]


def test_official_draws_are_the_same_at_every_call():
    assert [a.tobytes() for a in uniform_official([90, 40], 7)] == [b.tobytes() for b in uniform_official([90, 40], 7)]


@pytest.mark.parametrize("k", [0, -1, 2.0, True, [10, 10]])
def test_official_k_that_is_not_one_size_is_refused(k):
    with pytest.raises(ConfigError, match="k must be one integer of at least 1 for uniform_official"):
        uniform_official([40, 25], k)


def test_uniform_draws_every_subset_as_often():
    stream = np.random.default_rng(0)
    drawn = [uniform(8, 3, stream) for _ in range(40_000)]
    counts = np.unique(drawn, axis=0, return_counts=True)[1]
    assert len(counts) == 56 and chisquare(counts).pvalue > 1e-3
    assert all(items.dtype == np.int64 and (np.diff(items) > 0).all() for items in drawn[:50])


def test_uniform_draws_nothing_and_everything_without_the_stream():
    stream = np.random.default_rng(0)
    before = stream.bit_generator.state
    assert uniform(5, 0, stream).tolist() == []
    assert uniform(5, 5, stream).tolist() == [0, 1, 2, 3, 4]
    assert stream.bit_generator.state == before


def test_uniform_k_above_n_is_refused():
    with pytest.raises(ConfigError, match="from 0 to 5, the number of items, got 6"):
        uniform(5, 6, np.random.default_rng(0))
