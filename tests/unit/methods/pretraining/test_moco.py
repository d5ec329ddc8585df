"""MoCo: the loss against plain loops, the keys' passes in parts, the length of the queue, and refused parameters."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from longtail.core.errors import ConfigError
from longtail.methods.objectives.contrast import Projector, unit_rows
from longtail.methods.pretraining.moco.objective import MoCo, in_shuffled_parts, moco_logits
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train.batches import Batch
from longtail.train.objective import Position, TaskInfo
from longtail.train.optimizer_step import autocast

CPU = torch.device("cpu")
NOW = Position(0, 1, 0, 1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def task(counts=(9, 5, 2), num_features: int = 16) -> TaskInfo:
    return TaskInfo(len(counts), np.array(counts), num_features, epochs=2, seed=0)


def create(**changes):
    torch.manual_seed(1)
    backbone = create_backbone("resnet8", in_channels=1, width=4)
    objective = MoCo(task(), **({"queue": 9, "dim": 5, "splits": 3} | changes))
    model = Classifier(backbone, objective.create_head())
    objective.attach(model)
    return model, objective


def batch_of(count: int, seed: int = 0) -> Batch:
    stream = torch.Generator().manual_seed(seed)
    first, second = (torch.randn(count, 1, 8, 8, generator=stream) for _ in range(2))
    return Batch((first, second), torch.zeros(count, dtype=torch.int64), torch.arange(count))


def looped(q, k, queue, temperature):
    """Mean loss, and share of queries whose own key is the nearest, pair by pair."""
    total, found = 0.0, 0
    for i in range(len(q)):
        own = sum(a * b for a, b in zip(q[i].tolist(), k[i].tolist(), strict=True))
        others = [sum(a * b for a, b in zip(q[i].tolist(), row.tolist(), strict=True)) for row in queue]
        total -= math.log(math.exp(own / temperature) / sum(math.exp(x / temperature) for x in [own, *others]))
        found += own > max(others)
    return total / len(q), found / len(q)


# ---------------------------------------------------------------------------------------------------------------- loss


def test_logits_have_the_worked_values():
    q, k = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[0.6, 0.8], [0.0, 1.0]])
    queue = torch.tensor([[0.0, 1.0], [-1.0, 0.0], [0.8, 0.6]])
    expected = torch.tensor([[1.2, 0.0, -2.0, 1.6], [1.6, 1.6, -1.2, 1.92]])
    torch.testing.assert_close(moco_logits(q, k, queue, 0.5), expected)


@pytest.mark.parametrize("temperature", [0.1, 0.7])
def test_loss_and_accuracy_are_those_of_plain_loops(temperature):
    """Queries from one pass of view 0; keys from view 1, in the parts that the same random order gives."""
    model, objective = create(temperature=temperature)
    batch, reference, encoder = batch_of(10), copy.deepcopy(model), copy.deepcopy(objective.encoder)
    torch.manual_seed(5)
    loss, logs = objective.loss(model, batch, NOW)
    torch.manual_seed(5)
    parts = torch.randperm(10).tensor_split(3)
    with torch.no_grad():
        q, k = unit_rows(reference(batch.views[0])), torch.zeros(10, 5)
        for part in parts:
            k[part] = unit_rows(encoder.module(batch.views[1][part]))
    expected, found = looped(q, k, objective.queue.keys, temperature)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert logs["contrast_accuracy"].item() == pytest.approx(found)
    assert not torch.equal(*batch.views) and 0 < found < 1


def test_keys_join_the_queue_after_the_step_and_not_before():
    model, objective = create()
    start = objective.queue.keys.clone()
    objective.loss(model, batch_of(4), NOW)
    assert torch.equal(objective.queue.keys, start)
    objective.after_step(model, NOW)
    assert torch.equal(objective.queue.keys[4:], start[4:]) and not (objective.queue.keys[:4] == start[:4]).any()


def test_keys_and_queue_get_no_gradient():
    q, k, queue = (torch.randn(n, 4, requires_grad=True) for n in (3, 3, 6))
    moco_logits(q, k, queue, 0.1).square().sum().backward()
    assert q.grad.any() and k.grad is None and queue.grad is None


def test_logits_are_not_lowered_by_autocast():
    q, k, queue = (unit_rows(torch.randn(n, 16)) for n in (5, 5, 9))
    with autocast(CPU, "bf16"):
        assert (q @ queue.T).dtype == torch.bfloat16
        found = moco_logits(q, k, queue, 0.1)
    assert torch.equal(found, moco_logits(q, k, queue, 0.1))


def test_network_that_maps_all_images_to_one_point_finds_nothing():
    model, objective = create()
    with torch.no_grad():
        for network in (model, objective.encoder.module):
            network.head.out.weight.zero_()
            network.head.out.bias.fill_(1.0)
        objective.queue.keys.copy_(unit_rows(torch.ones_like(objective.queue.keys)))
    loss, logs = objective.loss(model, batch_of(6), NOW)
    assert logs["contrast_accuracy"] == 0 and loss.item() == pytest.approx(math.log(10), rel=1e-5)


def test_training_lets_queries_find_their_keys():
    model, objective = create(queue=64, dim=16, temperature=0.2, momentum=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
    losses, found = [], []
    for step in range(80):
        torch.manual_seed(step)
        batch = batch_of(16, seed=step % 8)
        batch.views = tuple(batch.views[0] + 0.1 * torch.randn(16, 1, 8, 8) for _ in range(2))
        loss, logs = objective.loss(model, batch, NOW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(model, NOW)
        losses.append(loss.item())
        found.append(logs["contrast_accuracy"].item())
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])
    assert np.mean(found[:10]) < 0.7 and np.mean(found[-10:]) > 0.8


# --------------------------------------------------------------------------------------------------------------- parts


class Spy(nn.Module):
    """Keeps what came in; the output of a row is its double."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x):
        self.seen.append(x[:, 0, 0, 0].clone())
        return 2 * x[:, 0, 0, :1]


@pytest.mark.parametrize(
    ("count", "splits", "sizes"),
    [
        (16, 8, [2] * 8),
        (17, 8, [3] + [2] * 7),
        (20, 3, [7, 7, 6]),
        (10, 8, [2] * 5),
        (9, 8, [3, 2, 2, 2]),
        (3, 8, [3]),
        (2, 8, [2]),
        (1, 8, [1]),
        (5, 1, [5]),
    ],
)
def test_rows_pass_in_even_parts_of_at_least_two_and_come_back_in_order(count, splits, sizes):
    x = torch.arange(float(count))[:, None, None, None].expand(-1, 1, 2, 3).contiguous()
    spy = Spy()
    assert torch.equal(in_shuffled_parts(spy, x, splits)[:, 0], 2 * x[:, 0, 0, 0])
    assert sorted((len(part) for part in spy.seen), reverse=True) == sizes
    assert sorted(torch.cat(spy.seen).tolist()) == list(range(count))


def test_parts_are_drawn_anew_for_every_batch_and_are_not_neighbors():
    x = torch.arange(64.0)[:, None, None, None]
    drawn = []
    for seed in (0, 1, 0):
        spy = Spy()
        torch.manual_seed(seed)
        in_shuffled_parts(spy, x, 8)
        drawn.append(torch.stack(spy.seen))
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])
    assert (drawn[0].amax(dim=1) - drawn[0].amin(dim=1) > 16).all(), "each from all over the batch"


def test_batch_norm_of_the_keys_takes_the_statistics_of_a_part_and_that_of_the_queries_of_the_batch():
    model, objective = create(splits=4)
    rows: dict[str, list[int]] = {"query": [], "key": []}
    for name, network in (("query", model), ("key", objective.encoder.module)):
        norm = network.backbone.bn1
        norm.register_forward_pre_hook(lambda module, inputs, name=name: rows[name].append(len(inputs[0])))
    objective.loss(model, batch_of(18), NOW)
    assert rows["query"] == [18] and sorted(rows["key"]) == [4, 4, 5, 5]


# ---------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(("counts", "length"), [((5000, 4000), 4096), ((30, 11), 20), ((1, 0), 1), ((8192,), 4096)])
def test_auto_queue_is_half_the_images_and_4096_at_most(counts, length):
    assert len(MoCo(task(counts)).queue.keys) == length


def test_head_is_a_projector_as_wide_as_the_features():
    head = MoCo(task(), dim=7).create_head()
    assert isinstance(head, Projector) and head(torch.zeros(2, 16)).shape == (2, 7)
    assert head.hidden.out_features == 16 and not any(isinstance(m, nn.BatchNorm1d) for m in head.modules())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be above 0, got 0"),
        ({"temperature": float("nan")}, r"temperature must be a finite number, got nan"),
        ({"queue": 0}, r"queue must be at least 1, got 0"),
        ({"dim": 0}, r"dim must be at least 1, got 0"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, got 1"),
        ({"momentum": -0.1}, r"momentum must be at least 0 and below 1, got -0\.1"),
        ({"splits": 0}, r"splits must be at least 1, got 0"),
    ],
)
def test_values_that_are_not_allowed_are_refused(changes, message):
    with pytest.raises(ConfigError, match=rf"pretrain\.moco\.{message}"):
        MoCo(task(), **changes)
