"""The subset of IP-DPP finetuning: rounds, what a draw depends on, state, and exact log probabilities."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from longtail.core.errors import DataError
from longtail.methods.ipdpp.finetuning import SubsetSampler, label_log_probability
from longtail.methods.ipdpp.selection import select

LABELS = np.repeat(np.arange(4), [40, 25, 6, 1])
LOG_P = np.log(np.random.default_rng(0).uniform(0.01, 1.0, len(LABELS)))


def sampler(**changes) -> SubsetSampler:
    arguments = {"every": 3, "seed": 7, "log_probability": lambda model, number: LOG_P - 0.01 * number}
    return SubsetSampler(LABELS, changes.pop("k", 10), **(arguments | changes))


def begun(epochs: int, **changes) -> SubsetSampler:
    made = sampler(**changes)
    for epoch in range(epochs):
        made.before_epoch(epoch, None)
    return made


@pytest.mark.parametrize("k", [10, "10*n_min", 3, 100])
def test_every_round_has_min_k_and_n_c_images_of_each_class(k):
    made = begun(7, k=k)
    size = 10 if k == "10*n_min" else k
    expected = np.minimum(size, [40, 25, 6, 1])
    assert made.available == expected.sum()
    assert len(made.rounds) == 3
    for one in made.rounds:
        assert np.array_equal(np.bincount(LABELS[one.selected], minlength=4), expected)


def test_a_round_is_what_select_draws_from_the_probabilities_of_its_moment():
    made = begun(6)
    for number in (0, 1):
        drawn = select(LABELS, 10, seed=7, round=number, log_probability=LOG_P - 0.01 * number)
        assert np.array_equal(np.flatnonzero(made.rounds[number].selected), drawn.indices)
        assert np.array_equal(made.rounds[number].inclusion_probability, drawn.inclusion_probability)
    assert not np.array_equal(made.rounds[0].selected, made.rounds[1].selected), "rounds have streams of their own"


def test_epochs_of_a_round_are_different_orders_of_the_same_images():
    made = begun(6)
    orders = [made.epoch(epoch, made.available) for epoch in range(6)]
    assert [set(order) == set(orders[0]) for order in orders] == [True] * 3 + [False] * 3
    assert len({tuple(order) for order in orders}) == 6
    assert len(made.epoch(0, 5)) == 5 and np.array_equal(made.epoch(0, 5), orders[0][:5])


def test_control_is_uniform_redrawn_and_needs_no_model():
    made = begun(4, log_probability=None)
    uniform = select(LABELS, 10, seed=7, round=1, sampler="uniform")
    assert np.array_equal(np.flatnonzero(made.rounds[1].selected), uniform.indices)
    np.testing.assert_allclose(made.rounds[0].inclusion_probability[:40], 10 / 40)
    assert not np.array_equal(made.rounds[0].selected, made.rounds[1].selected)
    assert made.rounds[0].log_probability is None


def test_released_draws_are_the_same_in_every_round():
    made = begun(6, options={"sampler": "uniform_official"})
    assert np.array_equal(made.rounds[0].selected, made.rounds[1].selected)


@pytest.mark.parametrize("uniform", [False, True])
def test_state_holds_all_rounds(uniform):
    how = {"log_probability": None} if uniform else {}
    made, other = begun(4, **how), sampler(**how)
    other.load_state_dict({name: tensor.clone() for name, tensor in made.state_dict().items()})
    for epoch in (4, 5, 6):
        made.before_epoch(epoch, None)
        other.before_epoch(epoch, None)
    for one, two in zip(made.rounds, other.rounds, strict=True):
        assert np.array_equal(one.selected, two.selected)
        assert np.array_equal(one.inclusion_probability, two.inclusion_probability)
        assert uniform or np.array_equal(one.log_probability, two.log_probability)
    assert all(isinstance(tensor, torch.Tensor) for tensor in made.state_dict().values())


def test_probability_that_is_not_a_number_is_refused_with_its_class():
    broken = LOG_P.copy()
    broken[45] = np.nan
    with pytest.raises(DataError, match="class 1"):
        begun(1, log_probability=lambda model, number: broken)


def test_label_log_probability_equals_log_softmax():
    scores = np.random.default_rng(0).normal(size=(60, 7)).astype(np.float32) * 20
    labels = np.random.default_rng(1).integers(0, 7, 60)
    expected = log_softmax(scores.astype(np.float64), axis=1)[np.arange(60), labels]
    np.testing.assert_allclose(label_log_probability(scores, labels), expected, rtol=1e-12, atol=1e-14)


def test_label_log_probability_keeps_the_digits_of_1_minus_p():
    scores, labels = np.array([[60.0, 0.0, 0.0], [0.0, 1000.0, 5.0], [3.0, 3.0, 3.0]]), np.array([0, 0, 2])
    expected = [-2 * np.exp(-60.0), -1000.0, -np.log(3)]
    np.testing.assert_allclose(label_log_probability(scores, labels), expected, rtol=1e-12)


def test_label_log_probability_is_the_same_over_several_blocks():
    scores = np.random.default_rng(0).normal(size=(9, 2**20)).astype(np.float32)
    labels = np.arange(9)
    expected = [label_log_probability(scores[[i]], labels[[i]])[0] for i in range(9)]
    assert np.array_equal(label_log_probability(scores, labels), expected)
