import math

import numpy as np
import pytest
import torch

from longtail.methods.dlsa.losses import (
    balance_loss,
    balanced_softmax_loss,
    class_weights,
    likelihood_loss,
    log_prior,
    purity_loss,
)

DOUBLE = torch.float64


def tensor(*values):
    return torch.tensor(values, dtype=DOUBLE)


def close(value, expected, atol=1e-6):
    torch.testing.assert_close(value.detach(), torch.tensor(expected, dtype=DOUBLE), atol=atol, rtol=0)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


# ------------------------------------------------------------------------------------------------------- likelihood


@pytest.mark.parametrize(
    ("q", "weights"),
    [
        (0, [1 / 3, 1 / 3, 1 / 3]),
        (1, [0.076923, 0.153846, 0.769231]),
        (2, [0.009524, 0.038095, 0.952381]),
    ],
)
def test_class_weights_have_the_worked_values(q, weights):
    close(class_weights(torch.tensor([100, 50, 10]), q), weights)


@pytest.mark.parametrize("q", [0.0, 1.0, 2.0])
def test_class_weights_sum_to_one_over_the_classes_present(q):
    weights = class_weights(torch.tensor([100, 0, 50, 10, 0]), q)
    assert weights[[1, 4]].tolist() == [0.0, 0.0]
    torch.testing.assert_close(weights[[0, 2, 3]], class_weights(torch.tensor([100, 50, 10]), q))


def test_class_weights_of_1280_and_5_images_are_65536_apart():
    weights = class_weights(torch.tensor([1280, 5]), 2)
    assert (weights[1] / weights[0]).item() == pytest.approx(65_536)


def test_likelihood_loss_is_the_negative_mean_of_the_weighted_log_densities():
    weights = class_weights(torch.tensor([100, 50, 10]), 1)
    log_density = tensor(-3.0, -1.0, -2.0, 4.0)
    loss = likelihood_loss(log_density, weights[torch.tensor([0, 2, 1, 0])])
    close(loss, (3 / 13 + 1 * 10 / 13 + 2 * 2 / 13 - 4 / 13) / 4, atol=1e-12)


# ----------------------------------------------------------------------------------------------------------- purity

POSITIVE, NEGATIVE = tensor(2.0, 0.0, -1.0), tensor(1.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("negative", "options", "value"),
    [
        (NEGATIVE, {}, -0.904005),
        (NEGATIVE, {"hard": True}, -0.861995),
        (POSITIVE, {}, -0.524267),
        (NEGATIVE, {"margin": 0.2}, -0.893395),
    ],
)
def test_purity_loss_has_the_worked_values(negative, options, value):
    close(purity_loss(POSITIVE[None], negative[None], **options), value)


def test_purity_loss_is_a_mean_over_the_pairs():
    both = purity_loss(torch.stack([POSITIVE, POSITIVE]), torch.stack([NEGATIVE, POSITIVE]))
    close(both, (-0.904005 - 0.524267) / 2)


def test_purity_loss_ignores_a_common_shift_of_a_row():
    positive, negative = normal(6, 4), normal(6, 4, seed=1)
    shifted = purity_loss(positive + normal(6, 1, seed=2), negative + normal(6, 1, seed=3))
    torch.testing.assert_close(shifted, purity_loss(positive, negative))


@pytest.mark.parametrize(("freeze", "reached"), [(True, False), (False, True)])
def test_purity_gradient_reaches_the_positive_rows_only_when_they_are_not_frozen(freeze, reached):
    positive, negative = (normal(5, 3, seed=seed).requires_grad_() for seed in (0, 1))
    purity_loss(positive, negative, freeze=freeze).backward()
    assert negative.grad.abs().max() > 0.01
    assert (positive.grad is not None) == reached


def test_descending_the_purity_loss_moves_negatives_out_of_the_positives_clusters():
    positive, negative = tensor(5.0, 0.0, 0.0)[None], normal(1, 3).requires_grad_()
    purity_loss(positive, negative).backward()
    moved = negative - negative.grad
    assert moved.softmax(dim=-1)[0, 0] < negative.softmax(dim=-1)[0, 0]


def test_negatives_below_the_margin_are_left_alone():
    positive, negative = tensor(5.0, 0.0, 0.0)[None], tensor(-9.0, 0.0, 0.0)[None].requires_grad_()
    purity_loss(positive, negative, hard=True, margin=0.2).backward()
    assert negative.grad.tolist() == [[0.0, 0.0, 0.0]]


# ---------------------------------------------------------------------------------------------------------- balance


def rows_of(*posterior):
    """Two rows of log p(x, k) with this mean posterior; constants of a row do not matter."""
    p = tensor(*posterior)
    return torch.stack([p.log() + 3.0, p.log() - 700.0])


def test_balance_loss_of_one_step_has_the_worked_value():
    loss, average = balance_loss(rows_of(0.7, 0.2, 0.1), torch.zeros(3, dtype=DOUBLE), 1)
    close(loss, 0.296794)
    close(average, [0.21, 0.06, 0.03])


def test_balance_loss_of_two_steps_has_the_worked_values():
    first, average = balance_loss(rows_of(0.7, 0.2, 0.1), torch.zeros(3, dtype=DOUBLE), 1)
    second, average = balance_loss(rows_of(0.5, 0.3, 0.2), average, torch.tensor(2))
    close(first, 0.296794)
    close(average / (1 - 0.7**2), [0.582353, 0.258824, 0.158824])
    close(second, 0.141689)


def test_balance_loss_lies_between_0_for_uniform_and_log_k_for_one_hot():
    zeros = torch.zeros(4, dtype=DOUBLE)
    close(balance_loss(torch.zeros(6, 4, dtype=DOUBLE), zeros, 1)[0], 0.0)
    one_hot = tensor(0.0, -1e4, -1e4, -1e4).expand(6, 4)
    close(balance_loss(one_hot, zeros, 1)[0], math.log(4), atol=1e-5)


def test_balance_loss_sees_the_mean_and_not_the_rows():
    """Sharp rows that share the clusters evenly are balanced."""
    sharp = torch.diag(torch.full((3,), 50.0, dtype=DOUBLE))
    close(balance_loss(sharp, torch.zeros(3, dtype=DOUBLE), 1)[0], 0.0)


def test_balance_loss_without_momentum_is_that_of_the_batch_alone():
    given = tensor(0.1, 0.3, 0.3)
    loss, average = balance_loss(rows_of(0.7, 0.2, 0.1), given, 5, None)
    close(loss, 0.296794)
    assert torch.equal(average, given)
    close(balance_loss(rows_of(0.7, 0.2, 0.1), given, 5, 0.0)[0], 0.296794)


def test_balance_gradient_reaches_only_the_batch_at_hand():
    before = normal(6, 3).requires_grad_()
    _, average = balance_loss(before, torch.zeros(3, dtype=DOUBLE), 1)
    assert not average.requires_grad
    now, given = normal(6, 3, seed=1).requires_grad_(), average.clone().requires_grad_()
    loss, _ = balance_loss(now, given, 2)
    loss.backward()
    assert given.grad is None

    p = now.detach().softmax(dim=-1)
    corrected = (0.7 * average + 0.3 * (p.mean(dim=0) + 1e-7)) / (1 - 0.7**2)
    outer = (corrected.log() + 1) * 0.3 / (1 - 0.7**2) / 6
    expected = p * (outer - (p * outer).sum(dim=-1, keepdim=True))
    torch.testing.assert_close(now.grad, expected)


# ------------------------------------------------------------------------------------------------- balanced softmax

LOGITS = tensor(2.0, 1.0, 0.0)


def test_balanced_softmax_has_the_worked_values():
    prior = log_prior(torch.tensor([100, 10, 1]))
    close((LOGITS + prior).softmax(dim=-1), [0.96326, 0.03544, 0.00130], atol=5e-6)
    losses = [balanced_softmax_loss(LOGITS[None], torch.tensor([y]), prior).item() for y in range(3)]
    np.testing.assert_allclose(losses, [0.03743, 3.34002, 6.64260], atol=5e-6)
    plain = [balanced_softmax_loss(LOGITS[None], torch.tensor([y]), torch.zeros(3)).item() for y in range(3)]
    np.testing.assert_allclose(plain, [0.40761, 1.40761, 2.40761], atol=5e-6)


def test_prior_of_an_absent_class_is_that_of_a_millionth_of_a_row():
    close(log_prior(torch.tensor([100, 10, 0])), [4.60517, 2.30259, -13.81551], atol=5e-6)


def test_balanced_softmax_is_a_mean_over_the_batch():
    prior = log_prior(torch.tensor([100, 10, 1]))
    loss = balanced_softmax_loss(LOGITS.expand(3, 3), torch.tensor([0, 1, 2]), prior)
    close(loss, (0.03743 + 3.34002 + 6.64260) / 3, atol=5e-6)


def test_balanced_softmax_ignores_the_scale_of_the_counts_and_a_shift_of_the_logits():
    logits, y, counts = normal(8, 5), torch.arange(8) % 5, torch.tensor([90, 40, 12, 5, 2])
    loss = balanced_softmax_loss(logits, y, log_prior(counts))
    torch.testing.assert_close(balanced_softmax_loss(logits, y, log_prior(7 * counts)), loss)
    torch.testing.assert_close(balanced_softmax_loss(logits, y, log_prior(counts / counts.sum())), loss)
    torch.testing.assert_close(balanced_softmax_loss(logits + 5, y, log_prior(counts)), loss)


def test_balanced_softmax_gradient_is_posterior_less_one_hot():
    logits, y, prior = normal(8, 5).requires_grad_(), torch.arange(8) % 5, log_prior(torch.tensor([90, 40, 12, 5, 0]))
    balanced_softmax_loss(logits, y, prior).backward()
    expected = ((logits + prior).softmax(dim=-1) - torch.eye(5, dtype=DOUBLE)[y]) / 8
    torch.testing.assert_close(logits.grad, expected.detach())


def test_absent_class_is_neither_pushed_nor_pulled():
    logits = normal(8, 3).requires_grad_()
    balanced_softmax_loss(logits, torch.arange(8) % 2, log_prior(torch.tensor([90, 40, 0]))).backward()
    assert logits.grad[:, 2].abs().max() < 1e-6
    assert logits.grad[:, :2].abs().min() > 1e-4
