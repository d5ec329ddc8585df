"""Losses of backbone training: the worked numbers of LDAM-DRW's and balanced softmax's specs, limits, and weights."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from longtail.core.errors import ConfigError, DataError
from longtail.data.effective_number import class_weights, effective_number
from longtail.data.samplers import EffectiveNumberSampler
from longtail.methods.objectives.balanced_softmax.objective import BalancedSoftmax
from longtail.methods.objectives.ce.objective import CrossEntropy
from longtail.methods.objectives.class_balanced.objective import ClassBalanced
from longtail.methods.objectives.focal.objective import Focal, focal
from longtail.methods.objectives.ldam.objective import LDAM, margins
from longtail.methods.objectives.logit_adjustment.objective import LogitAdjustment
from longtail.methods.objectives.weighting import Weighted, weighted_mean
from longtail.models.classifier import CosineLayer, LinearLayer
from longtail.train.batches import Batch
from longtail.train.objective import Position, TaskInfo

COUNTS = np.array([100, 10, 1])
CIFAR10 = np.array([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
CIFAR10_WEIGHTS = [0.050611, 0.076900, 0.121134, 0.195037, 0.318805, 0.524590, 0.868349, 1.442627, 2.409223, 3.992724]
CIFAR10_MARGINS = [0.158114, 0.179697, 0.204238, 0.232091, 0.263829, 0.299768, 0.340675, 0.387221, 0.440497, 0.5]
COSINES, LABELS = torch.tensor([[0.6, 0.1, -0.2], [0.3, 0.4, 0.5]]), torch.tensor([0, 2])


def task(counts=COUNTS, head: str = "linear", scale: float = 30.0, epochs: int = 200) -> TaskInfo:
    return TaskInfo(len(counts), np.asarray(counts), 4, epochs, seed=0, head=head, scale=scale)


def rule_weights() -> torch.Tensor:
    return torch.from_numpy(class_weights(COUNTS)).float()


class Fixed(torch.nn.Module):
    """A model that says the same whatever it sees."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.logits


def loss_of(objective: Weighted, logits: torch.Tensor = COSINES, labels: torch.Tensor = LABELS, epoch: int = 0):
    """The loss of training, and what it logs."""
    batch = Batch((torch.zeros(len(labels), 1, 1, 1),), labels, torch.arange(len(labels)))
    return objective.loss(Fixed(logits), batch, Position(epoch, 200, 0, 1))  # type: ignore[arg-type]


# Weights by the effective number


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.9999, (0.027159, 0.270369, 2.702472)),
        (0.99, (0.042237, 0.280044, 2.677719)),
        (0.9, (0.239329, 0.367442, 2.393229)),
        (0.0, (1.0, 1.0, 1.0)),
        (1.0, tuple(3 / np.array([100, 10, 1]) / (1 / np.array([100, 10, 1])).sum())),
    ],
)
def test_class_weights_have_the_worked_values(beta, expected):
    assert class_weights(COUNTS, beta) == pytest.approx(expected, abs=5e-7)


def test_effective_number_has_the_worked_values():
    assert effective_number(COUNTS, 0.9) == pytest.approx([9.999734, 6.513216, 1.0], abs=5e-7)


def test_weights_and_margins_of_cifar_10_have_the_worked_values():
    assert class_weights(CIFAR10) == pytest.approx(CIFAR10_WEIGHTS, abs=5e-7)
    assert margins(CIFAR10, 0.5) == pytest.approx(CIFAR10_MARGINS, abs=5e-7)


def test_empty_class_weighs_nothing_and_the_others_average_one():
    weights = class_weights(np.array([50, 0, 5]))
    assert weights[1] == 0 and weights.sum() == pytest.approx(2)


@pytest.mark.parametrize("beta", [-0.1, 1.1])
def test_beta_out_of_range_is_refused(beta):
    with pytest.raises(ConfigError, match=rf"train\.beta must be from 0 to 1, got {beta}"):
        effective_number(COUNTS, beta)


# Rules


def test_drw_waits_for_its_epoch():
    objective = CrossEntropy(task(CIFAR10), rule="drw")
    assert objective.weights_in(0) is None and objective.weights_in(159) is None
    for epoch in (160, 199, 320, 1000):
        assert objective.weights_in(epoch).tolist() == pytest.approx(CIFAR10_WEIGHTS, abs=5e-7)
    assert CrossEntropy(task(), rule="drw", drw_epoch=3).weights_in(3) is not None


@pytest.mark.parametrize(("rule", "weighted"), [("none", False), ("resample", False), ("reweight", True)])
def test_other_rules_are_the_same_in_all_epochs(rule, weighted):
    objective = CrossEntropy(task(), rule=rule)
    assert [objective.weights_in(epoch) is not None for epoch in (0, 199)] == [weighted] * 2


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("none", [True, True]), ("resample", [True, True]), ("reweight", [True, True]), ("drw", [False, True])],
)
def test_class_balanced_is_weighted_unless_it_is_deferred(rule, expected):
    objective = ClassBalanced(task(), rule=rule)
    assert [objective.weights_in(epoch) is not None for epoch in (0, 199)] == expected


def test_unknown_rule_is_refused():
    with pytest.raises(ConfigError, match=r"train\.rule must be one of none, resample, reweight, drw, got later"):
        CrossEntropy(task(), rule="later")


def test_weighted_mean_is_torchs_and_knows_no_scale():
    logits, labels = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    losses, weights = F.cross_entropy(logits, labels, reduction="none"), rule_weights()
    expected = F.cross_entropy(logits, labels, weight=weights)
    torch.testing.assert_close(weighted_mean(losses, labels, weights), expected)
    torch.testing.assert_close(weighted_mean(losses, labels, 7 * weights), expected)
    alone = labels == 2
    torch.testing.assert_close(weighted_mean(losses[alone], labels[alone], weights), losses[alone].mean())
    equal = torch.from_numpy(class_weights(np.array([8, 8, 8]))).float()
    torch.testing.assert_close(weighted_mean(losses, labels, equal), losses.mean())


@pytest.mark.parametrize("kind", [CrossEntropy, ClassBalanced])
def test_reweight_with_equal_counts_is_cross_entropy(kind):
    logits, labels = 3 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    found, _ = loss_of(kind(task([8, 8, 8]), rule="reweight"), logits, labels)
    torch.testing.assert_close(found, F.cross_entropy(logits, labels))
    assert not torch.isclose(found, loss_of(kind(task(), rule="reweight"), logits, labels)[0])


def test_resample_draws_with_the_worked_probabilities():
    labels = np.repeat(np.arange(3), COUNTS)
    sampler = EffectiveNumberSampler(labels, seed=0)
    assert sampler.class_probability(0) == pytest.approx([0.334383, 0.332883, 0.332733], abs=5e-7)
    drawn = sampler.epoch(0, 30_000)
    share = np.bincount(labels[drawn]) / 30_000
    assert share == pytest.approx(sampler.class_probability(0), abs=4 * np.sqrt(2 / 9 / 30_000))
    assert len(set(drawn[labels[drawn] == 0])) == 100, "every image of the class"
    assert np.array_equal(drawn, EffectiveNumberSampler(labels, seed=0).epoch(0, 30_000))
    assert not np.array_equal(drawn, sampler.epoch(1, 30_000))


def test_resample_on_cifar_10_is_nearly_balanced():
    share = EffectiveNumberSampler(np.repeat(np.arange(10), CIFAR10), seed=0).class_probability(0)
    assert (share[0], share[-1]) == pytest.approx((0.1193, 0.0941), abs=5e-5)


def test_resample_refuses_labels_with_gaps():
    with pytest.raises(DataError, match="got no image of class 1"):
        EffectiveNumberSampler(np.array([0, 2]), seed=0)


# Losses


def test_cross_entropy_and_focal_have_the_worked_values():
    losses = CrossEntropy(task()).losses(COSINES, LABELS)
    assert losses.tolist() == pytest.approx([0.720694, 1.001943], abs=1e-6)
    assert losses.mean().item() == pytest.approx(0.861318, abs=1e-6)
    own = Focal(task(), gamma=1.0).losses(COSINES, LABELS)
    assert own.mean().item() == pytest.approx(0.502101, abs=1e-6)
    assert weighted_mean(own, LABELS, rule_weights()).item() != pytest.approx(own.mean().item(), abs=1e-3)
    assert (rule_weights()[LABELS] * own).mean().item() == pytest.approx(0.861797, abs=1e-6)
    assert focal(rule_weights()[LABELS] * losses, 1.0).mean().item() == pytest.approx(1.263764, abs=1e-6)


@pytest.mark.parametrize(("released", "rule", "expected"), [
    (True, "reweight", 1.263764), (True, "none", 0.502101), (False, "none", 0.502101),
])  # fmt: skip
def test_released_focal_is_a_switch_that_matters_with_weights_alone(released, rule, expected):
    loss, logs = loss_of(Focal(task(), released=released, rule=rule))
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert logs["train_accuracy"].item() == 1


def test_weights_of_focal_stand_outside_in_a_weighted_mean():
    """0.861797 is the plain mean of weight times focal loss: divided by 2 rows and not by their weights."""
    found, _ = loss_of(Focal(task(), rule="reweight"))
    weights, losses = (0.027159, 2.702472), (0.720694, 1.001943)
    weighted = [w * (1 - math.exp(-c)) * c for w, c in zip(weights, losses, strict=True)]
    assert found.item() == pytest.approx(sum(weighted) / sum(weights), abs=2e-6)
    assert found.item() == pytest.approx(0.631439, abs=2e-6)
    assert sum(weighted) / 2 == pytest.approx(0.861797, abs=2e-6)
    assert found.item() * sum(weights) / 2 == pytest.approx(0.861797, abs=2e-6)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_focal_is_finite_with_its_gradient_where_the_label_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0]], requires_grad=True)
    Focal(task([5, 5]), gamma=gamma).losses(logits, torch.tensor([0])).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_focal_without_gamma_is_cross_entropy():
    torch.testing.assert_close(
        Focal(task(), gamma=0.0).losses(COSINES, LABELS), CrossEntropy(task()).losses(COSINES, LABELS)
    )


def test_ldam_has_the_worked_values():
    objective = LDAM(task(head="cosine"))
    assert objective.margins.tolist() == pytest.approx([0.158114, 0.281171, 0.5], abs=5e-7)
    losses = objective.losses(30 * COSINES, LABELS)
    assert losses.tolist() == pytest.approx([3.513e-5, 12.048593], abs=2e-6)  # float32 keeps 1 + 3.5e-5 to 1e-7
    assert losses.mean().item() == pytest.approx(6.024314, abs=1e-5)
    assert weighted_mean(losses, LABELS, rule_weights()).item() == pytest.approx(11.928715, abs=1e-5)


def test_weighted_ldam_divides_by_the_weights_and_not_by_the_rows():
    objective = LDAM(task(head="cosine"), rule="drw")
    before, after = (loss_of(objective, 30 * COSINES, epoch=epoch)[0].item() for epoch in (159, 160))
    assert before == pytest.approx(6.024314, abs=1e-5)
    assert after == pytest.approx(11.928715, abs=1e-5)
    plain_mean = (rule_weights()[LABELS] * objective.losses(30 * COSINES, LABELS)).mean()
    assert plain_mean.item() == pytest.approx(16.2805, abs=5e-5)  # the digits that are given


def test_ldam_without_a_margin_is_cross_entropy_of_scaled_cosines():
    objective = LDAM(task(head="cosine"), margin=0.0)
    torch.testing.assert_close(
        objective.losses(30 * COSINES, LABELS), F.cross_entropy(30 * COSINES, LABELS, reduction="none")
    )


def test_ldam_predicts_with_a_cosine_head_and_refuses_a_linear_one():
    head = LDAM(task(head="cosine", scale=16.0)).create_head()
    assert isinstance(head, CosineLayer) and head.scale == 16.0
    with pytest.raises(ConfigError, match=r"train\.head must be cosine .*, got linear"):
        LDAM(task(head="linear"))


def test_balanced_softmax_has_the_worked_values():
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(3, 1)
    objective = BalancedSoftmax(task())
    assert objective.losses(logits, torch.arange(3)).tolist() == pytest.approx([0.03743, 3.34002, 6.64260], abs=5e-6)
    probability = torch.softmax(logits[0] + objective.shift, dim=0)
    assert probability.tolist() == pytest.approx([0.96326, 0.03544, 0.00130], abs=5e-6)


def test_balanced_softmax_of_an_empty_class_counts_a_millionth_of_an_image():
    shift = BalancedSoftmax(task([100, 10, 0])).shift.double() + np.log(110.000001)
    assert shift.tolist() == pytest.approx([4.60517, 2.30259, -13.81551], abs=5e-5)


def test_balanced_softmax_knows_neither_the_scale_of_counts_nor_a_shift_of_logits():
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))
    labels, objective = torch.arange(6) % 3, BalancedSoftmax(task())
    expected = objective.losses(logits, labels)
    torch.testing.assert_close(BalancedSoftmax(task(7 * COUNTS)).losses(logits, labels), expected)
    torch.testing.assert_close(objective.losses(logits + 5, labels), expected, rtol=1e-5, atol=1e-6)


def test_balanced_softmax_has_the_gradient_of_its_shifted_softmax():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), requires_grad=True)
    labels, objective = torch.tensor([0, 1, 2, 2]), BalancedSoftmax(task())
    objective.losses(logits, labels).sum().backward()
    expected = torch.softmax(logits.detach() + objective.shift, dim=1) - F.one_hot(labels, 3)
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("adjustment", "other"), [(0.0, CrossEntropy), (1.0, BalancedSoftmax)])
def test_logit_adjustment_lies_between_cross_entropy_and_balanced_softmax(adjustment, other):
    ours = LogitAdjustment(task(), adjustment=adjustment)
    torch.testing.assert_close(ours.losses(COSINES, LABELS), other(task()).losses(COSINES, LABELS))


def test_shifted_losses_predict_with_the_head_as_it_is():
    assert type(BalancedSoftmax(task()).create_head()) is LinearLayer
