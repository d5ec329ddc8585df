"""PaCo: the worked number of its spec, the loss against plain loops and in its limits, and refused parameters."""

import copy
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from longtail.core.errors import ConfigError
from longtail.methods.objectives.contrast import unit_rows
from longtail.methods.objectives.paco.objective import PaCo, floored_log_prior, paco_loss
from longtail.models.classifier import Classifier, LinearLayer
from longtail.models.factory import create_backbone
from longtail.train.batches import Batch
from longtail.train.objective import Position, TaskInfo
from longtail.train.optimizer_step import autocast

DOUBLE = torch.float64
CPU = torch.device("cpu")
NOW = Position(0, 1, 0, 1)
USUAL = {"temperature": 0.2, "alpha": 0.05, "beta": 1.0, "gamma": 1.0}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def sample(count=8, slots=7, dim=4, classes=3, seed=0, dtype=DOUBLE) -> dict[str, torch.Tensor]:
    """Arguments of the loss; labels repeat in the batch and in the queue, of which every third slot is empty."""
    stream = torch.Generator().manual_seed(seed)
    rows = {"q": count, "k": count, "queue": slots}
    vectors = {n: unit_rows(torch.randn(size, dim, generator=stream, dtype=dtype)) for n, size in rows.items()}
    queue_labels = torch.randint(classes, (slots,), generator=stream)
    queue_labels[::3] = -1
    return {
        "logits": 3 * torch.randn(count, classes, generator=stream, dtype=dtype),
        **vectors,
        "labels": torch.randint(classes, (count,), generator=stream),
        "queue_labels": queue_labels,
        "log_prior": torch.rand(classes, generator=stream, dtype=dtype).log(),
    }


def looped(logits, q, k, queue, labels, queue_labels, log_prior, temperature, alpha, beta, gamma) -> list[float]:
    """The equations, row by row."""
    rows = [*zip(q, labels, strict=True), *zip(k, labels, strict=True)]
    rows += [(key, label) for key, label in zip(queue, queue_labels, strict=True) if label != -1]
    losses = []
    for i in range(len(q)):
        z = [float(o + prior) for o, prior in zip(logits[i], log_prior, strict=True)]
        met = [(float(q[i] @ row) / temperature, label == labels[i]) for j, (row, label) in enumerate(rows) if j != i]
        log_z = math.log(sum(map(math.exp, z)) + gamma * sum(math.exp(s) for s, _ in met))
        positives = [s for s, same in met if same]
        total = beta * (z[labels[i]] - log_z) + alpha * sum(s - log_z for s in positives)
        losses.append(-total / (beta + alpha * len(positives)))
    return losses


# ---------------------------------------------------------------------------------------------------------------- loss


def test_loss_has_the_worked_values():
    def unit(*rows):
        return F.normalize(torch.tensor(rows, dtype=DOUBLE))

    losses = paco_loss(
        logits=torch.tensor([[1, 0, 0.5], [0, 2, -1]], dtype=DOUBLE),
        q=unit((1.0, 0.0), (0.0, 1.0)),
        k=unit((1.0, 0.2), (0.3, 1.0)),
        queue=unit((1.0, 1.0), (-1.0, 0.5)),
        labels=torch.tensor([0, 1]),
        queue_labels=torch.tensor([0, 1]),
        log_prior=floored_log_prior(np.array([6, 3, 1])),
        **USUAL,
    )
    assert losses.tolist() == pytest.approx([4.34396, 4.09508], abs=5e-6)
    assert losses.mean().item() == pytest.approx(4.21952, abs=5e-6)


@pytest.mark.parametrize(
    "changes",
    [{}, {"alpha": 0.7}, {"beta": 2.5}, {"gamma": 0.3}, {"gamma": 0.0}, {"alpha": 0.0}, {"temperature": 0.05}],
)
@pytest.mark.parametrize("seed", range(3))
def test_loss_is_that_of_plain_loops(changes, seed):
    values, weights = sample(seed=seed), USUAL | changes
    assert paco_loss(**values, **weights).tolist() == pytest.approx(looped(**values, **weights), rel=1e-10)


def test_without_contrast_it_is_the_cross_entropy_of_logits_with_the_log_prior():
    counts = np.array([60, 30, 5])
    values = sample(dtype=torch.float32) | {"log_prior": floored_log_prior(counts)}
    shifted = values["logits"] + torch.from_numpy(np.log(counts / counts.sum() + 1e-9)).float()
    expected = F.cross_entropy(shifted, values["labels"], reduction="none")
    torch.testing.assert_close(paco_loss(**values, **(USUAL | {"alpha": 0.0, "gamma": 0.0})), expected)


@pytest.mark.parametrize("filled", [0, 3])
def test_empty_slots_count_nowhere_whatever_they_hold(filled):
    values = sample()
    values["queue_labels"] = torch.tensor([0, 2, 0][:filled] + [-1] * (7 - filled))
    without = values | {name: values[name][:filled] for name in ("queue", "queue_labels")}
    other = values["queue"].clone()
    other[filled:] = 17.0
    expected = paco_loss(**without, **USUAL)
    assert torch.equal(paco_loss(**values, **USUAL), paco_loss(**(values | {"queue": other}), **USUAL))
    torch.testing.assert_close(paco_loss(**values, **USUAL), expected, rtol=1e-12, atol=0)


def test_one_image_and_an_empty_queue_leave_its_own_key():
    values = sample(count=1) | {"queue_labels": torch.full((7,), -1)}
    s = float(values["q"] @ values["k"].T) / 0.2
    z = values["logits"][0] + values["log_prior"]
    log_z = float(torch.cat([z, torch.tensor([s])]).exp().sum().log())
    expected = -(float(z[values["labels"][0]]) - log_z + 0.05 * (s - log_z)) / 1.05
    assert paco_loss(**values, **USUAL).item() == pytest.approx(expected)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_gradient_is_that_of_finite_differences(gamma):
    """Of the logits and of the queries, which are anchors and rows that other anchors meet at once."""
    values = sample(count=4, slots=3)
    logits, q = values.pop("logits").requires_grad_(), values.pop("q").requires_grad_()
    weights = USUAL | {"alpha": 0.4, "gamma": gamma}
    assert torch.autograd.gradcheck(lambda logits, q: paco_loss(logits, q, **values, **weights), (logits, q))


def test_keys_and_queue_get_no_gradient():
    values = sample()
    for name in ("logits", "q", "k", "queue"):
        values[name].requires_grad_()
    paco_loss(**values, **USUAL).sum().backward()
    assert values["logits"].grad.any() and values["q"].grad.any()
    assert values["k"].grad is None and values["queue"].grad is None


@pytest.mark.parametrize(("scale", "temperature"), [(1e4, 0.2), (1.0, 1e-3)])
def test_large_logits_and_a_low_temperature_give_a_finite_loss_and_gradient(scale, temperature):
    values = sample(dtype=torch.float32)
    values["logits"] *= scale
    logits, q = values["logits"].requires_grad_(), values["q"].requires_grad_()
    losses = paco_loss(**values, **(USUAL | {"temperature": temperature}))
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(logits.grad).all() and torch.isfinite(q.grad).all()


def test_autocast_changes_nothing():
    values = sample(dtype=torch.float32)
    plain = paco_loss(**values, **USUAL)
    with autocast(CPU, "bf16"):
        assert (values["q"] @ values["k"].T).dtype == torch.bfloat16
        found = paco_loss(**values, **USUAL)
        low = paco_loss(**(values | {"logits": values["logits"].bfloat16()}), **USUAL)
    assert torch.equal(found, plain) and low.dtype == torch.float32


# ----------------------------------------------------------------------------------------------------------- objective


def task(counts=(12, 6, 2)) -> TaskInfo:
    return TaskInfo(len(counts), np.array(counts), 16, epochs=2, seed=0)


def create(**changes):
    torch.manual_seed(1)
    backbone = create_backbone("resnet8", in_channels=1, width=4)
    objective = PaCo(task(), **({"queue": 9, "dim": 5} | changes))
    model = Classifier(backbone, objective.create_head())
    objective.attach(model)
    return model, objective


def batch_of(labels) -> Batch:
    stream = torch.Generator().manual_seed(0)
    first, second = (torch.randn(len(labels), 1, 8, 8, generator=stream) for _ in range(2))
    return Batch((first, second), torch.tensor(labels), torch.arange(len(labels)))


def test_objective_is_the_mean_loss_of_queries_of_view_0_and_keys_of_view_1():
    weights = {"temperature": 0.3, "alpha": 0.2, "beta": 1.5, "gamma": 0.6}
    model, objective = create(**weights)
    objective.queue.enqueue(unit_rows(torch.randn(4, 5)), torch.tensor([0, 0, 1, 2]))
    batch, reference, own = batch_of([0, 0, 1, 2, 0]), copy.deepcopy(model), copy.deepcopy(objective)
    loss, _ = objective.loss(model, batch, NOW)
    features = reference.forward_features(batch.views[0])
    losses = looped(
        reference.head(features).detach(),
        unit_rows(own.projector(features)).detach(),
        unit_rows(own.encoder.module(batch.views[1])),
        own.queue.keys,
        batch.labels,
        own.queue.labels,
        torch.log(torch.tensor([12, 6, 2]) / 20 + 1e-9),
        **weights,
    )
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_key_encoder_starts_as_the_backbone_and_the_projector():
    model, objective = create()
    backbone, projector = objective.encoder.module
    for copied, source in ((backbone, model.backbone), (projector, objective.projector)):
        assert copied is not source
        for name, value in source.state_dict().items():
            assert torch.equal(copied.state_dict()[name], value), name
    assert isinstance(projector.norm, torch.nn.BatchNorm1d) and projector.hidden.out_features == 16


def test_accuracy_is_of_the_logits_without_prior_by_a_linear_head():
    """A bias of 1 for the rare class, below the 1.8 by which its log prior is lower."""
    model, objective = create()
    assert type(model.head) is LinearLayer
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
    assert (model.head.bias + objective.log_prior).argmax() == 0
    assert objective.loss(model, batch_of([2, 2, 2, 0]), NOW)[1]["train_accuracy"] == 0.75


def test_keys_join_the_queue_with_their_labels_after_the_step_and_not_before():
    model, objective = create()
    objective.loss(model, batch_of([2, 0, 1, 1]), NOW)
    assert (objective.queue.labels == -1).all()
    objective.after_step(model, NOW)
    assert objective.queue.labels.tolist() == [2, 0, 1, 1] + [-1] * 5
    torch.testing.assert_close(objective.queue.keys.norm(dim=1), torch.tensor([1.0] * 4 + [0.0] * 5))


def test_prior_of_an_empty_class_is_the_floor():
    expected = [math.log(0.75 + 1e-9), math.log(1e-9), math.log(0.25 + 1e-9)]
    assert PaCo(task((30, 0, 10))).log_prior.tolist() == pytest.approx(expected, rel=1e-6)


def test_training_on_a_batch_learns_it():
    model, objective = create()
    optimizer = torch.optim.SGD([*model.parameters(), *objective.projector.parameters()], lr=0.05, momentum=0.9)
    batch = batch_of([0, 0, 0, 0, 0, 1, 1, 1, 2, 2])
    losses = []
    for _ in range(40):
        loss, logs = objective.loss(model, batch, NOW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(model, NOW)
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0] and logs["train_accuracy"] == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, r"temperature must be above 0, got 0"),
        ({"temperature": float("nan")}, r"temperature must be a finite number, got nan"),
        ({"alpha": -0.1}, r"alpha must be at least 0, got -0\.1"),
        ({"beta": 0.0}, r"beta must be above 0, got 0"),
        ({"gamma": -1.0}, r"gamma must be at least 0, got -1"),
        ({"queue": 0}, r"queue must be at least 1, got 0"),
        ({"dim": 0}, r"dim must be at least 1, got 0"),
        ({"momentum": 1.0}, r"momentum must be at least 0 and below 1, got 1"),
        ({"momentum": -0.1}, r"momentum must be at least 0 and below 1, got -0\.1"),
    ],
)
def test_values_that_are_not_allowed_are_refused(changes, message):
    with pytest.raises(ConfigError, match=rf"train\.paco\.{message}"):
        PaCo(task(), **changes)
