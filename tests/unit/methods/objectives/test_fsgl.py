"""FSGL: the worked numbers of its spec, its limits, and what reaches what."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from longtail.core.errors import ConfigError
from longtail.data.samplers import PowerSampler, SquareRootSampler
from longtail.methods.objectives.fsgl.objective import (
    FSGL,
    Mixed,
    distance,
    masked_bce,
    power_weights,
    scaling_table,
    soft_cross_entropy,
)
from longtail.methods.objectives.sam import ascended, fixed_statistics
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.models.resnet import count_parameters
from longtail.train.batches import Batch
from longtail.train.objective import Position, TaskInfo
from longtail.train.optimizer_step import OptimizerStep

COUNTS = np.array([100, 10, 1])
SHARE = torch.tensor([0.25])
LABELS, PARTNERS = torch.tensor([0, 2]), torch.tensor([1, 0])
O1, O2 = torch.tensor([[2.0, 0, -1], [0, 1, 0]]), torch.tensor([[1.0, 1, 0], [0, 0, 2]])
CB1, CB2 = torch.tensor([[0.0, 1, 0], [1, 0, -1]]), torch.tensor([[0.0, 0, 0], [-1, 0, 1]])
P1, Z2 = torch.tensor([[1.0, 0], [3, 4]]), torch.tensor([[1.0, 1], [0, 2]])
P2, Z1 = torch.tensor([[0.0, 1], [1, 1]]), torch.tensor([[0.0, -1], [2, 0]])


def task(counts=COUNTS, epochs: int = 200, features: int = 16, head: str = "linear") -> TaskInfo:
    return TaskInfo(len(counts), np.asarray(counts), features, epochs, seed=0, head=head)


def weights() -> torch.Tensor:
    return torch.from_numpy(power_weights(COUNTS, 1.0)).float()


# Feature scaling


@pytest.mark.parametrize(
    ("classes", "gamma", "expected"),
    [
        (4, 0.6, (1.60, 1.45, 1.30, 1.15)),
        (10, 0.25, (1.25, 1.23, 1.20, 1.18, 1.15, 1.12, 1.10, 1.07, 1.05, 1.02)),
        (10, 0.1, (1.10, 1.09, 1.08, 1.07, 1.06, 1.05, 1.04, 1.03, 1.02, 1.01)),
    ],
)
def test_scaling_has_the_worked_values(classes, gamma, expected):
    falling = np.arange(classes, 0, -1)
    assert scaling_table(falling, gamma).tolist() == list(expected)
    assert scaling_table(falling, gamma, "index").tolist() == list(expected)


def test_scaling_of_1000_classes_is_rounded_as_python_rounds_the_released_expression():
    table = scaling_table(np.ones(1000), 0.1, "index")
    assert sorted(set(table)) == [round(1 + step / 100, 2) for step in range(11)]
    assert (table[:51] == 1.1).all() and table[51] < 1.1 and (table[951:] == 1.0).all() and table[950] > 1.0
    other = [round(1 + 0.1 * (1 - k / 1000), 2) for k in range(1000)]
    assert sum(table != other) == 10


def test_scaling_by_rank_follows_falling_counts_and_ties_follow_the_index():
    counts = np.array([5, 40, 5, 0, 7, 0])
    table = scaling_table(counts, 0.6)
    assert np.argsort(-table, kind="stable").tolist() == [1, 4, 0, 2, 3, 5]
    assert sorted(table) == sorted(scaling_table(counts, 0.6, "index"))


def test_variants_of_scaling_are_what_they_were_meant_to_be():
    counts = np.array([1, 9, 5, 3])
    assert scaling_table(counts, 0.4, variant="uniform").tolist() == [1.4] * 4
    assert scaling_table(counts, 0.4, variant="head_half").tolist() == [1.0, 1.4, 1.3, 1.0]
    assert scaling_table(np.ones(5), 0.5, variant="head_half").tolist() == [1.5, 1.4, 1.3, 1.0, 1.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fsm_order": "size"}, r"train\.fsgl\.fsm_order must be one of rank, index, got size"),
        (
            {"fsm_variant": "half"},
            r"train\.fsgl\.fsm_variant must be one of linear, uniform, head_half, got half",
        ),
    ],
)
def test_unknown_choice_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        FSGL(task(), **change)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1, "at least 0( and at most 10)?, got -1"),
        (-1e-9, "at least 0( and at most 10)?, got -1e-09"),
        (math.nan, "a finite number, got nan"),
    ],
)
@pytest.mark.parametrize(
    "name", ["gamma", "label_exponent", "resample_exponent", "consistency_weight", "rho", "masked_bce_weight"]
)
def test_negative_value_is_refused(name, value, expected):
    with pytest.raises(ConfigError, match=rf"train\.fsgl\.{name} must be {expected}$"):
        FSGL(task(), **{name: value})
    FSGL(task(), **{name: 0.0})


def test_cosine_head_which_does_not_see_lengths_is_refused_unless_nothing_is_scaled():
    with pytest.raises(ConfigError, match=r"train\.head must be linear .*, got cosine"):
        FSGL(task(head="cosine"))
    FSGL(task(head="cosine"), gamma=0.0)


# Weights and the partner batch


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(1.0, (0.027027, 0.270270, 2.702703)), (1.2, (0.011192, 0.177389, 2.811419)), (0.0, (1, 1, 1))],
)
def test_class_weights_have_the_worked_values(exponent, expected):
    assert power_weights(COUNTS, exponent) == pytest.approx(expected, abs=5e-7)


def test_empty_class_weighs_nothing_and_the_others_average_one():
    found = power_weights(np.array([50, 0, 5]), 1.2)
    assert found[1] == 0 and found.sum() == pytest.approx(2)


@pytest.mark.parametrize(
    ("exponent", "expected"),
    [(0.2, (0.844874, 0.133904, 0.021222)), (0.0, COUNTS / COUNTS.sum()), (1.0, (1 / 3, 1 / 3, 1 / 3))],
)
def test_partner_classes_have_the_worked_probabilities(exponent, expected):
    labels = np.repeat(np.arange(3), COUNTS)
    sampler = FSGL(task(), resample_exponent=exponent).partner_sampler(labels)
    assert sampler.class_probability(0) == pytest.approx(expected, abs=5e-7)
    drawn = np.bincount(labels[sampler.epoch(0, 20_000)], minlength=3) / 20_000
    assert drawn == pytest.approx(np.asarray(expected), abs=0.015)
    assert not np.array_equal(sampler.epoch(0, 50), sampler.epoch(1, 50))


def test_square_root_sampler_is_the_power_of_a_half():
    labels = np.repeat(np.arange(3), COUNTS)
    half = PowerSampler(labels, seed=4, exponent=0.5, stream="square root")
    assert np.array_equal(half.epoch(3, 99), SquareRootSampler(labels, seed=4, epochs=9).epoch(3, 99))


# Losses


def test_soft_cross_entropy_has_the_worked_values():
    for logits, of_classes, expected in (
        (O1, None, 1.610645),
        (O2, None, 1.300770),
        (CB1, weights(), 0.878643),
        (CB2, weights(), 0.277163),
    ):
        assert soft_cross_entropy(logits, LABELS, PARTNERS, SHARE, of_classes).item() == pytest.approx(
            expected, abs=1e-6
        )


@pytest.mark.parametrize(
    ("of_classes", "expected"),
    [
        (None, [[0.25, 0.75, 0], [0.75, 0, 0.25]]),
        (weights(), [[0.006757, 0.202703, 0], [0.020270, 0, 0.675676]]),
    ],
    ids=["plain", "weighted"],
)
def test_labels_of_mixed_images_have_the_worked_values(of_classes, expected):
    """Minus B times the gradient by a logit is the label of its class where its probability is 0."""
    found = torch.empty(2, 3)
    for k in range(3):
        logits = torch.zeros(2, 3)
        logits[:, k] = -100
        logits.requires_grad_()
        soft_cross_entropy(logits, LABELS, PARTNERS, SHARE, of_classes).backward()
        found[:, k] = -2 * logits.grad[:, k]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=0, atol=5e-7)  # the digits that are given


def test_soft_cross_entropy_is_torchs_with_soft_labels():
    logits = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    labels, partners = torch.arange(7) % 3, torch.arange(7) // 3
    share = torch.rand(7, generator=torch.Generator().manual_seed(1))
    target = share[:, None] * F.one_hot(labels, 3) + (1 - share[:, None]) * F.one_hot(partners, 3)
    torch.testing.assert_close(soft_cross_entropy(logits, labels, partners, share), F.cross_entropy(logits, target))


def test_consistency_has_the_worked_values():
    assert distance(P1, Z2).item() == pytest.approx(-0.753553, abs=1e-6)
    assert distance(P2, Z1).item() == pytest.approx(0.146447, abs=1e-6)
    assert (distance(P1, Z2) + distance(P2, Z1)).item() == pytest.approx(-0.607107, abs=1e-6)
    assert distance(P1, 3 * P1).item() == pytest.approx(-1)


def test_no_gradient_reaches_the_projection_through_the_distance():
    p, z = P1.clone().requires_grad_(), Z2.clone().requires_grad_()
    distance(p, z).backward()
    assert z.grad is None and p.grad.abs().sum() > 0


def test_masked_bce_counts_labels_and_confident_classes_alone():
    logits = torch.tensor([[3.0, -1.0, 0.5], [0.0, -5.0, 2.0]])
    labels, partners, share = torch.tensor([0, 1]), torch.tensor([1, 1]), torch.tensor([0.75])
    target = torch.tensor([[0.75, 0.25, 0.0], [0.0, 1.0, 0.0]])
    every = -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits))
    expected = (every[0, 0] + every[0, 1] + every[1, 1] + every[1, 2]) / 2  # 0.5 and 0.0 lie below 0.7
    torch.testing.assert_close(masked_bce(logits, labels, partners, share), expected)


class Says(nn.Module):
    """Gives the next of some fixed outputs with every call, whatever it sees."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = itertools.cycle(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return next(self.outputs)


@pytest.mark.parametrize(
    ("epoch", "classification", "whole"),
    [(0, 2.911415, 0.482988), (100, 2.472513, 0.044086), (199, 1.173318, -1.255109)],
)
def test_whole_loss_has_the_worked_values(epoch, classification, whole):
    objective = FSGL(task(), label_exponent=1.0, gamma=0.0)
    objective.plain, objective.projection, objective.prediction = Says(O1, O2), Says(Z1, Z2), Says(P1, P2)
    model = Classifier(Says(torch.zeros(2, 16)), Says(CB1, CB2))
    mixed = Mixed((torch.zeros(2), torch.zeros(2)), LABELS, PARTNERS, (SHARE, SHARE))
    found, consistency, logs = objective.losses(model, mixed, Position(epoch, 200, 0, 1))
    assert found.item() == pytest.approx(classification, abs=2e-6)
    assert (found + 4 * consistency).item() == pytest.approx(whole, abs=5e-6)
    assert logs["alpha"].item() == pytest.approx(1 - (epoch / 200) ** 2)
    assert logs["plain_loss"].item() == pytest.approx(1.610645 + 1.300770, abs=2e-6)


def test_consistency_is_lowest_where_each_view_predicts_the_others_projection():
    objective = FSGL(task())
    objective.projection, objective.prediction = Says(Z1, Z2), Says(Z2, Z1)
    model = Classifier(nn.Identity(), nn.Linear(16, 3))
    mixed = Mixed((torch.rand(2, 16), torch.rand(2, 16)), LABELS, PARTNERS, (SHARE, SHARE))
    assert objective.losses(model, mixed, Position(0, 200, 0, 1))[1].item() == pytest.approx(-2, abs=1e-6)


def test_alpha_does_not_matter_where_both_heads_and_all_weights_are_equal():
    objective = FSGL(task(), label_exponent=0.0)
    objective.plain = Says(O1, O2)
    model = Classifier(nn.Identity(), Says(O1, O2))
    mixed = Mixed((torch.rand(2, 16), torch.rand(2, 16)), LABELS, PARTNERS, (SHARE, SHARE))
    first, *others = (objective.losses(model, mixed, Position(epoch, 200, 0, 1))[0].item() for epoch in (0, 100, 199))
    assert others == pytest.approx([first] * 2, rel=1e-6)


# On a network


def network(objective: FSGL) -> Classifier:
    backbone = create_backbone("resnet8", in_channels=3, width=4)
    return Classifier(backbone, objective.create_head())


def create(**options) -> tuple[FSGL, Classifier]:
    torch.manual_seed(0)
    objective = FSGL(task(np.array([9, 4, 2]), epochs=4), **options)
    return objective, network(objective)


def batch(seed: int = 0, size: int = 6) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    views = [torch.rand(size, 3, 8, 8, generator=draw) for _ in range(4)]
    partner = Batch((views[2], views[3]), torch.arange(size) % 2, torch.arange(size))
    return Batch((views[0], views[1]), torch.arange(size) % 3, torch.arange(size), partner)


def updates(objective: FSGL, model: Classifier, lr: float = 0.1) -> OptimizerStep:
    parameters = [*model.parameters(), *objective.parameters()]
    return OptimizerStep(
        torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-3, fused=True), torch.device("cpu")
    )


@pytest.mark.parametrize(
    ("architecture", "classes", "expected"),
    [("resnet34", 10, 21_484_372), ("resnet34", 100, 21_576_712), ("resnext50_32x4d", 1000, 27_668_240)],
)
def test_network_with_all_heads_has_the_published_parameters(architecture, classes, expected):
    with torch.device("meta"):
        backbone = create_backbone(architecture, in_channels=3)
        heads = FSGL(task(np.ones(classes), features=int(backbone.num_features)))  # type: ignore[arg-type]
        assert count_parameters(Classifier(backbone, heads.create_head())) + count_parameters(heads) == expected


def test_both_views_are_mixed_with_one_share_and_one_box_for_the_batch():
    objective, _ = create()
    torch.manual_seed(5)
    given = batch()
    mixed = objective.mix(given)
    share = mixed.shares[0]
    assert share.shape == (1,) and torch.equal(share, mixed.shares[1])
    expected = share * given.views[0] + (1 - share) * given.partner.views[0]
    torch.testing.assert_close(mixed.images[0], expected)
    pasted = (mixed.images[1] == given.partner.views[1]).all(dim=1)
    assert (pasted == pasted[0]).all(), "one box"
    torch.testing.assert_close(mixed.images[1], torch.where(pasted[:, None], given.partner.views[1], given.views[1]))


def test_area_label_counts_the_pasted_pixels_and_touches_cutmix_alone():
    objective, by_share = create(cutmix_area_label=True)[0], create()[0]
    for seed in range(5):
        torch.manual_seed(seed)
        given = batch()
        mixed = objective.mix(given)
        kept = (mixed.images[1][0] == given.views[1][0]).all(dim=0).float().mean()
        assert mixed.shares[1].item() == pytest.approx(kept.item(), abs=1e-6)
        torch.manual_seed(seed)
        assert torch.equal(mixed.shares[0], by_share.mix(given).shares[1])


def test_gamma_0_is_the_path_without_scaling_and_scaling_multiplies_the_features():
    plain, model = create(gamma=0.0)
    scaled, _ = create(gamma=0.5, fsm_variant="uniform")
    scaled.load_state_dict({**plain.state_dict(), "scales": scaled.scales})
    mixed = plain.mix(batch())
    position = Position(1, 4, 0, 1)
    model.eval()

    class Longer(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1.5 * model.backbone(x)

    by_hand = plain.losses(Classifier(Longer(), model.head), mixed, position)
    for one, other in zip(scaled.losses(model, mixed, position)[:2], by_hand[:2], strict=True):
        torch.testing.assert_close(one, other)
    plain.scales.fill_(7.0)
    unused = plain.losses(model, mixed, position)[0]
    plain.scales.fill_(1.0)
    assert torch.equal(unused, plain.losses(model, mixed, position)[0])


def test_scale_of_a_mixed_image_has_the_worked_value():
    objective = FSGL(task(np.array([4, 3, 2, 1]), features=2), gamma=0.6)
    seen = []
    model = Classifier(nn.Identity(), nn.Linear(2, 4))
    model.head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mixed = Mixed((torch.ones(1, 2), torch.ones(1, 2)), torch.tensor([0]), torch.tensor([3]), (SHARE, SHARE))
    objective.losses(model, mixed, Position(0, 4, 0, 1))
    assert [x.flatten().tolist() for x in seen] == [pytest.approx([1.2625] * 2)] * 2


def test_first_epoch_leaves_the_reweighted_head_to_weight_decay_alone():
    objective, model = create(consistency_weight=1.0)
    start = model.head.weight.detach().clone()
    objective.step(model, batch(), Position(0, 4, 0, 1), updates(objective, model))
    torch.testing.assert_close(model.head.weight, start * (1 - 0.1 * 5e-3))
    objective.step(model, batch(), Position(2, 4, 0, 1), updates(objective, model))
    assert not torch.allclose(model.head.weight, start * (1 - 0.1 * 5e-3) ** 2)


def test_consistency_weight_acts_in_the_second_pass_alone():
    """The ascent is the same, so that without momentum the steps differ by eta times one gradient."""
    ascents = []
    for eta in (0.0, 4.0):
        objective, model = create(consistency_weight=eta)
        torch.manual_seed(1)
        _, logs = objective.step(model, batch(), Position(1, 4, 0, 1), updates(objective, model))
        ascents.append((logs["gradient_norm"].item(), objective.projection.weight.detach().clone()))
    assert ascents[0][0] == ascents[1][0]
    assert not torch.equal(ascents[0][1], ascents[1][1])


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_step_is_the_published_one(rho):
    """Against the same step written by hand with autograd on flat vectors."""
    objective, model = create(rho=rho, gamma=0.3)
    twin, twin_model = create(rho=rho, gamma=0.3)
    parameters = [*twin_model.parameters(), *twin.parameters()]
    position = Position(2, 4, 0, 1)
    torch.manual_seed(3)
    objective.step(model, batch(), position, updates(objective, model))
    torch.manual_seed(3)
    mixed = twin.mix(batch())
    start = [parameter.detach().clone() for parameter in parameters]
    if rho:
        classification = twin.losses(twin_model, mixed, position)[0]
        found = torch.autograd.grad(classification, parameters, allow_unused=True)
        flat = torch.cat(
            [torch.zeros_like(p).ravel() if g is None else g.ravel() for p, g in zip(parameters, found, strict=True)]
        )
        ascent = rho * flat / (flat.norm() + 1e-12)
        with torch.no_grad():
            for p, step in zip(parameters, ascent.split([p.numel() for p in parameters]), strict=True):
                p.add_(step.view_as(p))
    classification, consistency, _ = twin.losses(twin_model, mixed, position)
    found = torch.autograd.grad(classification + 4 * consistency, parameters)
    ours = [*model.parameters(), *objective.parameters()]
    for value, gradient, own in zip(start, found, ours, strict=True):
        torch.testing.assert_close(own.detach(), value - 0.1 * (gradient + 5e-3 * value), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rho", [0.0, 0.05])
def test_step_returns_the_whole_loss_and_its_parts_at_the_unmoved_weights(rho):
    objective, model = create(rho=rho, consistency_weight=3.0)
    twin, twin_model = create(rho=rho, consistency_weight=3.0)
    position = Position(2, 4, 0, 1)
    torch.manual_seed(3)
    loss, logs = objective.step(model, batch(), position, updates(objective, model))
    torch.manual_seed(3)
    classification, consistency, expected = twin.losses(twin_model, twin.mix(batch()), position)
    assert abs(consistency.item()) > 0.01
    torch.testing.assert_close(loss, (classification + 3 * consistency).detach())
    for name, value in expected.items():
        torch.testing.assert_close(logs[name].detach(), value.detach())


@pytest.mark.parametrize(("freeze", "passes"), [(False, 4), (True, 2)])
def test_every_forward_moves_the_running_statistics_unless_the_second_pass_is_kept_out(freeze, passes):
    objective, model = create(freeze_bn_second=freeze)
    twin, twin_model = create()
    torch.manual_seed(3)
    objective.step(model, batch(), Position(1, 4, 0, 1), updates(objective, model))
    torch.manual_seed(3)
    for images in twin.mix(batch()).images:
        twin_model.forward_features(images)
    found, expected = dict(model.named_buffers()), dict(twin_model.named_buffers())
    assert model.backbone.bn1.num_batches_tracked.item() == passes
    assert model.backbone.bn1.momentum == 0.1
    assert all(torch.equal(found[name], expected[name]) is freeze for name in expected)


def test_scaling_acts_in_training_and_evaluation_knows_nothing_of_it():
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(8))
    runs = []
    for gamma in (0.0, 0.9):
        objective, model = create(gamma=gamma)
        objective.attach(model)
        torch.manual_seed(1)
        update = updates(objective, model)
        for seed in range(2):
            objective.step(model, batch(seed), Position(1, 4, seed, 2), update)
        runs.append((objective, model.eval()))
    (_, plain), (objective, model) = runs
    assert not torch.allclose(plain.backbone.conv1.weight, model.backbone.conv1.weight)
    found = model(images)
    torch.testing.assert_close(
        found,
        F.linear(
            model.backbone(images), *map(torch.from_numpy, (model.head.export().weight, model.head.export().bias))
        ),
    )
    objective.scales.fill_(7.0)
    assert torch.equal(model(images), found)
    plain.load_state_dict(model.state_dict())
    assert torch.equal(plain(images), found)


def test_loss_that_is_not_finite_moves_no_weight():
    objective, model = create()
    with torch.no_grad():
        objective.plain.bias[0] = math.nan
    start = {name: value.clone() for name, value in model.named_parameters()}
    update = updates(objective, model)
    objective.step(model, batch(), Position(1, 4, 0, 1), update)
    assert update.has_failed()
    assert all(torch.equal(value, start[name]) for name, value in model.named_parameters())


# Sharpness-aware minimization


def test_ascent_and_step_have_the_worked_values():
    module = nn.Module()
    module.w = nn.Parameter(torch.tensor([1.0, 2.0]))
    module.unused = nn.Parameter(torch.tensor([5.0]))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=0.005)
    module.w.grad = torch.tensor([3.0, 4.0])
    before = module.w.detach().clone()
    with ascended(module.parameters(), 0.05) as norm:
        assert norm.item() == 5.0
        assert module.w.tolist() == pytest.approx([1.03, 2.04])
        assert module.unused.item() == 5.0
        module.w.grad, module.unused.grad = torch.tensor([1.0, -1.0]), torch.tensor([2.0])
    assert torch.equal(module.w, before)
    optimizer.step()
    assert module.w.tolist() == pytest.approx([0.8995, 2.099])
    assert module.unused.item() == pytest.approx(5 - 0.1 * (2 + 0.025))


def test_weights_are_restored_where_the_second_pass_fails():
    weight = nn.Parameter(torch.randn(9))
    weight.grad = torch.randn(9)
    before = weight.detach().clone()
    with pytest.raises(ZeroDivisionError), ascended([weight], 3.0):
        assert not torch.equal(weight, before)
        raise ZeroDivisionError
    assert torch.equal(weight, before)


def test_fixed_statistics_are_those_of_the_batch_and_the_running_ones_stay():
    norm = nn.BatchNorm1d(3)
    norm(torch.randn(8, 3))
    state = {name: value.clone() for name, value in norm.state_dict().items()}
    x = torch.randn(8, 3) + 4
    with fixed_statistics(norm):
        inside = norm(x)
    assert all(torch.equal(value, state[name]) for name, value in norm.state_dict().items())
    assert torch.equal(inside, norm(x))
