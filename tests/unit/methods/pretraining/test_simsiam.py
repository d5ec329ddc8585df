"""SimSiam: worked numbers, the stop-gradient, the signs of collapse, the MLPs, the predictor's rate."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from longtail.augment.transforms import Transform
from longtail.core.errors import ConfigError
from longtail.data.samplers import create_sampler
from longtail.methods.objectives.contrast import BatchNorm
from longtail.methods.pretraining.simsiam import objective as module
from longtail.methods.pretraining.simsiam.objective import (
    SimSiam,
    negative_cosine,
    output_dimensions,
    output_std,
    simsiam_loss,
)
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train.batches import Batch, MemoryImages
from longtail.train.network import TrainingSettings, train_network
from longtail.train.objective import Position, TaskInfo
from longtail.train.optimizer_step import autocast

CPU = torch.device("cpu")
COUNTS = np.array([9, 5, 2])
NOW = Position(0, 1, 0, 1)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def task(num_features: int = 16) -> TaskInfo:
    return TaskInfo(len(COUNTS), COUNTS, num_features, epochs=2, seed=0)


def create(**changes) -> tuple[Classifier, SimSiam]:
    torch.manual_seed(1)
    backbone = create_backbone("resnet8", in_channels=1, width=4)
    objective = SimSiam(task(), **({"dim": 12} | changes))
    return Classifier(backbone, objective.create_head()), objective


def batch_of(count: int, seed: int = 0, noise: float = 0.3) -> Batch:
    """Two noisy views of each image."""
    stream = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 8, 8, generator=stream)
    views = tuple(images + noise * torch.randn(count, 1, 8, 8, generator=stream) for _ in range(2))
    return Batch(views, torch.zeros(count, dtype=torch.int64), torch.arange(count))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


# ---------------------------------------------------------------------------------------------------------------- loss


def test_loss_has_the_worked_values():
    """D(p1, z2) = -(0.6 + 1) / 2 and D(p2, z1) = -(0.8 - 1) / 2; lengths do not count."""
    p1, z2 = torch.tensor([[3.0, 4.0], [2.0, 0.0]]), torch.tensor([[7.0, 0.0], [0.1, 0.0]])
    p2, z1 = torch.tensor([[0.0, 5.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [-2.0, -2.0]])
    assert negative_cosine(p1, z2).item() == pytest.approx(-0.8)
    assert negative_cosine(p2, z1).item() == pytest.approx(0.1)
    assert simsiam_loss(p1, p2, z1, z2).item() == pytest.approx(-0.35)
    assert simsiam_loss(p2, p1, z2, z1).item() == pytest.approx(-0.35), "symmetric"


def test_loss_of_a_batch_is_that_of_plain_loops_over_separate_passes():
    model, objective = create()
    batch, reference, predictor = batch_of(7), copy.deepcopy(model), copy.deepcopy(objective.predictor)
    loss, logs = objective.loss(model, batch, NOW)
    with torch.no_grad():
        z1, z2 = (reference(view) for view in batch.views)
        p1, p2 = (predictor(z).numpy() for z in (z1, z2))
        z1, z2 = z1.numpy(), z2.numpy()
    expected = -np.mean([cosine(p1[i], z2[i]) / 2 + cosine(p2[i], z1[i]) / 2 for i in range(7)])
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    unit = z1 / np.linalg.norm(z1, axis=1, keepdims=True)
    assert logs["output_std"].item() == pytest.approx(unit.std(axis=0).mean() * np.sqrt(12), rel=1e-5)


def test_outputs_get_no_gradient_as_targets():
    p, z = (torch.randn(5, 4, requires_grad=True) for _ in range(2))
    negative_cosine(p, z).backward()
    assert p.grad.any() and z.grad is None


def test_gradient_of_a_batch_is_that_of_fixed_targets():
    """So it passes through the predictor alone; without the stop-gradient it is another one."""
    model, objective = create()
    batch = batch_of(7)
    found = {}
    for kind in ("objective", "fixed", "flowing"):
        network, predictor = copy.deepcopy((model, objective.predictor))
        if kind == "objective":
            own = copy.deepcopy(objective)
            own.predictor = predictor
            loss, _ = own.loss(network, batch, NOW)
        else:
            z1, z2 = (network(view) for view in batch.views)
            t1, t2 = (torch.tensor(z.tolist()) if kind == "fixed" else z for z in (z1, z2))
            similarity = nn.CosineSimilarity(dim=1)
            loss = -(similarity(predictor(z1), t2).mean() + similarity(predictor(z2), t1).mean()) / 2
        loss.backward()
        parameters = [*network.parameters(), *predictor.parameters()]
        found[kind] = torch.cat([parameter.grad.flatten() for parameter in parameters])
    torch.testing.assert_close(found["objective"], found["fixed"], atol=1e-6, rtol=1e-4)
    assert (found["objective"] - found["flowing"]).norm() > 0.1 * found["objective"].norm()


def test_loss_is_not_lowered_by_autocast():
    rows = [torch.randn(5, 16) for _ in range(4)]
    with autocast(CPU, "bf16"):
        assert (rows[0] @ rows[1].T).dtype == torch.bfloat16
        found = simsiam_loss(*rows)
        half = simsiam_loss(*(row.bfloat16() for row in rows))
    assert torch.equal(found, simsiam_loss(*rows)) and half.dtype == torch.float32


# ------------------------------------------------------------------------------------------------------------ collapse


def test_output_std_is_zero_for_one_direction_and_one_for_all():
    """Of unit rows (1, 0) and (-1, 0), the features have deviations 1 and 0."""
    lengths = torch.tensor([[1.0], [3.0], [0.2]])
    assert output_std(torch.tensor([[1.0, 2.0]]) * lengths).item() == pytest.approx(0, abs=1e-6)
    assert output_std(torch.tensor([[2.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(np.sqrt(2) / 2)
    assert output_std(torch.randn(2000, 64)).item() == pytest.approx(1, abs=0.02)
    assert output_std(torch.randn(1, 8)) == 0


def test_output_dimensions_count_the_directions():
    """The squared cosines of the rows (1, 0), (0, 1) and (3, 3) have sum 3 + 4 / 2."""
    assert output_dimensions(torch.tensor([[2.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(1)
    assert output_dimensions(5 * torch.eye(6)).item() == pytest.approx(6)
    assert output_dimensions(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]])).item() == pytest.approx(9 / 5)
    assert output_dimensions(torch.randn(4000, 16)).item() == pytest.approx(16, abs=0.5)
    assert output_dimensions(torch.zeros(3, 4)) == 0
    with autocast(CPU, "bf16"):
        assert output_dimensions(5 * torch.eye(6)).dtype == torch.float32


def trained(steps: int = 100) -> tuple[float, float, float]:
    """Means over the last ten steps: loss, standard deviation and effective dimensions of the outputs."""
    model, objective = create(dim=32)
    parameters = nn.ModuleList([model, objective]).parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4)
    rows = []
    for step in range(steps):
        loss, logs = objective.loss(model, batch_of(32, seed=step % 8), NOW)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rows.append([loss.item(), logs["output_std"].item(), logs["output_dimensions"].item()])
    loss, std, dimensions = np.mean(rows[-10:], axis=0)
    return loss, std, dimensions


def test_outputs_keep_their_directions_in_training_and_lose_them_without_the_stop_gradient(monkeypatch):
    """The last batch normalization still keeps the deviations up where fewer than 2.5 directions are left."""
    loss, std, dimensions = trained()
    assert -0.95 < loss < -0.7 and std > 0.95 and dimensions > 4.5
    monkeypatch.setattr(module, "negative_cosine", lambda p, z: -nn.functional.cosine_similarity(p, z).mean())
    loss, std, dimensions = trained()
    assert loss < -0.97 and std > 0.9 and dimensions < 2.5


# ---------------------------------------------------------------------------------------------------------------- MLPs


@pytest.mark.parametrize("layers", [2, 3])
def test_projector_normalizes_every_layer_and_ends_without_relu_scale_and_shift(layers):
    head = SimSiam(task(), dim=6, projector_layers=layers, projector_hidden=9).create_head()
    hidden = [nn.Linear, BatchNorm, nn.ReLU]
    assert [type(part) for part in head] == [*hidden * (layers - 1), nn.Linear, BatchNorm]
    assert [part.out_features for part in head if isinstance(part, nn.Linear)] == [9] * (layers - 1) + [6]
    assert not any(part.bias is not None for part in head if isinstance(part, nn.Linear))
    assert [norm.affine for norm in head if isinstance(norm, BatchNorm)] == [True] * (layers - 1) + [False]
    z = head(torch.randn(50, 16)).detach()
    torch.testing.assert_close(z.mean(dim=0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(z.std(dim=0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


def test_predictor_normalizes_its_hidden_layer_alone():
    predictor = SimSiam(task(), dim=6, predictor_hidden=4).predictor
    assert [type(part) for part in predictor] == [nn.Linear, BatchNorm, nn.ReLU, nn.Linear]
    assert predictor[0].weight.shape == (4, 6) and predictor[0].bias is None
    assert predictor[3].weight.shape == (6, 4) and predictor[3].bias is not None


def test_defaults_are_the_published_sizes():
    objective = SimSiam(task(num_features=512))
    head = objective.create_head()
    assert [part.out_features for part in head if isinstance(part, nn.Linear)] == [512, 2048]
    assert [part.out_features for part in objective.predictor if isinstance(part, nn.Linear)] == [512, 2048]


@pytest.mark.parametrize(("dim", "hidden"), [(2048, 512), (10, 2), (3, 1)])
def test_auto_predictor_is_a_bottleneck_of_a_quarter(dim, hidden):
    assert SimSiam(task(), dim=dim).predictor[0].out_features == hidden


# ---------------------------------------------------------------------------------------------------------------- rate


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("rate", ["constant", "scheduled"])
def test_schedule_leaves_the_rate_of_the_predictor_alone(tmp_path: Path, rate, optimizer):
    """At a multiplier of 0 only a predictor with a constant rate moves."""
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 8, 8, 1)).astype(np.uint8)
    images = MemoryImages(pixels, labels, Transform("crop", (0.4,), (0.2,), 8), CPU)
    settings = TrainingSettings(
        epochs=1,
        batch_size=8,
        lr=0.1,
        momentum=0.9,
        weight_decay=1e-3,
        schedule=lambda epoch, fraction: 0.0,
        seed=0,
        optimizer=optimizer,
        progress="off",
    )
    model, objective = create(predictor_lr=rate)
    sampler = create_sampler("instance", labels, seed=0, epochs=1)
    train_network(model, objective, images, None, sampler, settings, CPU, tmp_path)
    start_model, start_objective = create(predictor_lr=rate)
    for one, start in zip(model.parameters(), start_model.parameters(), strict=True):
        assert torch.equal(one, start)
    for one, start in zip(objective.parameters(), start_objective.parameters(), strict=True):
        assert torch.equal(one, start) == (rate == "scheduled")


# ---------------------------------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, r"dim must be at least 1, got 0"),
        ({"projector_layers": 1}, r"projector_layers must be at least 2, got 1"),
        ({"projector_hidden": 0}, r"projector_hidden must be at least 1, got 0"),
        ({"predictor_hidden": 0}, r"predictor_hidden must be at least 1, got 0"),
        ({"predictor_lr": "fixed"}, r"predictor_lr must be one of constant, scheduled, got fixed"),
    ],
)
def test_values_that_are_not_allowed_are_refused(changes, message):
    with pytest.raises(ConfigError, match=rf"pretrain\.simsiam\.{message}"):
        SimSiam(task(), **changes)
