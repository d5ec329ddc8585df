"""Projector, momentum encoder and queue, and what MoCo and PaCo promise alike when the real loop trains with them."""

from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from longtail.augment.transforms import Transform
from longtail.data.samplers import create_sampler
from longtail.methods.objectives.contrast import KeyQueue, MomentumEncoder, Projector, unit_rows
from longtail.methods.objectives.paco.objective import PaCo
from longtail.methods.pretraining.moco.objective import MoCo
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train.batches import Batch, MemoryImages
from longtail.train.network import TrainingSettings, train_network
from longtail.train.objective import Position, TaskInfo
from longtail.train.optimizer_step import autocast
from longtail.train.schedule import create_schedule
from tests.host_reads import no_host_reads

CPU = torch.device("cpu")
COUNTS = np.array([16, 8, 4, 1])
NOW = Position(0, 1, 0, 1)
SMALL = {MoCo: {"queue": 11, "dim": 6, "momentum": 0.8, "splits": 3}, PaCo: {"queue": 11, "dim": 6, "momentum": 0.8}}
both = pytest.mark.parametrize("method", [MoCo, PaCo])


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def close(found, expected, tolerance=1e-6):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


# ----------------------------------------------------------------------------------------------------------- projector


@pytest.mark.parametrize("batch_norm", [False, True])
def test_projector_is_two_layers_with_batch_norm_if_asked_for_and_a_relu_between(batch_norm):
    projector = Projector(3, hidden=5, dim=2, batch_norm=batch_norm).double()
    x = torch.randn(7, 3, dtype=torch.float64)
    between = x @ projector.hidden.weight.T + projector.hidden.bias
    if batch_norm:
        nn.init.uniform_(projector.norm.weight)
        nn.init.uniform_(projector.norm.bias)
        between = (between - between.mean(0)) / (between.var(0, correction=0) + 1e-5).sqrt()
        between = between * projector.norm.weight + projector.norm.bias
    close(projector(x), between.clamp(min=0) @ projector.out.weight.T + projector.out.bias, 1e-12)


def test_projector_without_batch_norm_has_the_tensors_of_two_linear_layers():
    assert set(Projector(3, 5, 2).state_dict()) == {"hidden.weight", "hidden.bias", "out.weight", "out.bias"}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_single_row_is_normalized_with_the_running_statistics_and_leaves_them(precision):
    projector = Projector(3, hidden=5, dim=2, batch_norm=True)
    projector(torch.randn(64, 3) + 2)
    before = {name: value.clone() for name, value in projector.state_dict().items()}
    x = torch.randn(1, 3)
    with autocast(CPU, precision):
        found = projector(x)
        found.sum().backward()
        assert all(torch.equal(value, before[name]) for name, value in projector.state_dict().items())
        assert all(torch.isfinite(parameter.grad).all() for parameter in projector.parameters())
        assert torch.equal(found, projector.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_unit_rows_have_length_one_and_a_row_of_zeros_a_finite_gradient(dtype):
    x = torch.randn(4, 3, dtype=dtype)
    x[2] = 0
    rows = unit_rows(x.requires_grad_())
    close(rows.norm(dim=1), torch.tensor([1, 1, 0, 1], dtype=dtype))
    rows.sum().backward()
    assert x.grad.abs().max() < 1e7
    with autocast(CPU, "bf16"):
        assert unit_rows(x.bfloat16()).dtype == torch.float32


# ---------------------------------------------------------------------------------------------------- momentum encoder


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


@pytest.mark.parametrize("momentum", [0.0, 0.3, 0.99])
def test_momentum_encoder_follows_its_equation(momentum):
    module = network()
    encoder = MomentumEncoder(module, momentum)
    expected = [p.detach().double() for p in module.parameters()]
    for _ in range(4):
        with torch.no_grad():
            for p in module.parameters():
                p.add_(torch.randn_like(p))
        encoder.update(module)
        current = [p.detach().double() for p in module.parameters()]
        expected = [momentum * slow + (1 - momentum) * fast for slow, fast in zip(expected, current, strict=True)]
        for slow, value in zip(encoder.parameters(), expected, strict=True):
            close(slow.double(), value)


def test_momentum_encoder_gets_no_gradient_and_has_statistics_of_its_own():
    module = network()
    encoder = MomentumEncoder(module, 0.5)
    assert not any(p.requires_grad for p in encoder.parameters()) and all(p.requires_grad for p in module.parameters())
    assert not encoder(torch.randn(5, 3, requires_grad=True)).requires_grad
    assert encoder.module[1].num_batches_tracked == 1 and module[1].num_batches_tracked == 0
    before = encoder.module[1].running_mean.clone()
    encoder.update(module)
    assert torch.equal(encoder.module[1].running_mean, before) and before.any() and not module[1].running_mean.any()


def test_momentum_encoder_takes_over_the_mode_of_each_part():
    module = network()
    encoder = MomentumEncoder(module, 0.5)
    module[1].eval()
    encoder.match_mode(module)
    assert [m.training for m in encoder.module.modules()] == [True, True, False, True, True]


def test_momentum_encoder_comes_back_from_its_state():
    encoder, other = MomentumEncoder(network(), 0.5), MomentumEncoder(network(), 0.5)
    encoder(torch.randn(5, 3))
    other.load_state_dict(encoder.state_dict())
    x = torch.randn(5, 3)
    assert torch.equal(other.eval()(x), encoder.eval()(x))


# --------------------------------------------------------------------------------------------------------------- queue


def in_order(queue: KeyQueue) -> tuple[list[float], list[int]]:
    """First entries and labels, the oldest first."""
    start = int(queue.pointer)
    return queue.keys[:, 0].roll(-start).tolist(), queue.labels.roll(-start).tolist()


@pytest.mark.parametrize(
    ("size", "batches"),
    [
        (6, [2, 2, 2, 2]),
        (5, [2, 2, 2, 2]),
        (5, [3] * 7),
        (4, [4, 4]),
        (4, [9]),
        (4, [1, 9, 2]),
        (3, [2, 7, 1]),
        (1, [3]),
    ],
)
def test_queue_is_first_in_first_out_whatever_the_batches(size, batches):
    queue, expected = KeyQueue(size, 2), deque([(0.0, -1)] * size, maxlen=size)
    number = 0
    for count in batches:
        values = torch.arange(number + 1, number + count + 1)
        queue.enqueue(torch.stack([values, -values], dim=1).float(), 10 * values)
        expected.extend((float(value), 10 * int(value)) for value in values)
        number += count
        keys, labels = in_order(queue)
        assert list(zip(keys, labels, strict=True)) == list(expected)
        assert torch.equal(queue.keys[:, 1], -queue.keys[:, 0])


def test_queue_starts_empty_or_with_random_unit_rows_and_is_all_buffers():
    empty = KeyQueue(5, 3)
    torch.manual_seed(0)
    drawn = KeyQueue(500, 3, random=True)
    torch.manual_seed(0)
    assert torch.equal(drawn.keys, KeyQueue(500, 3, random=True).keys)
    assert not empty.keys.any() and empty.labels.tolist() == [-1] * 5
    close(drawn.keys.norm(dim=1), torch.ones(500))
    assert drawn.keys.mean(dim=0).norm() < 0.2  # standard error 0.045
    assert (drawn.labels == -1).all()
    kinds = {name: value.dtype for name, value in empty.state_dict().items()}
    assert kinds == {"keys": torch.float32, "labels": torch.int64, "pointer": torch.int64}


def test_queue_takes_no_part_in_the_gradient():
    queue = KeyQueue(3, 2)
    queue.enqueue(torch.ones(2, 2, requires_grad=True), torch.tensor([0, 1]))
    assert not queue.keys.requires_grad


# ----------------------------------------------------------------------------------------------- both, in the real loop


def images() -> MemoryImages:
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    pixels = np.random.default_rng(0).integers(0, 100, (len(labels), 8, 8, 3)) + 40 * labels[:, None, None, None]
    return MemoryImages(pixels.astype(np.uint8), labels, Transform("crop_flip", (0.4,) * 3, (0.2,) * 3, 8), CPU)


def create(method, **changes):
    torch.manual_seed(1)
    backbone = create_backbone("resnet8", in_channels=3, width=4)
    task = TaskInfo(len(COUNTS), COUNTS, int(backbone.num_features), 4, seed=7)
    objective = method(task, **(SMALL[method] | changes))
    return Classifier(backbone, objective.create_head()), objective


def run(scratch: Path, method, epochs: int = 4, **changes):
    """29 images in 4 batches of 7 an epoch, which do not divide the queue of 11; a checkpoint every second epoch."""
    model, objective = create(method)
    how = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-2, "seed": 3, "progress": "off", "checkpoint_every": 2}
    schedule = create_schedule("cosine", epochs=epochs)
    settings = TrainingSettings(epochs=epochs, batch_size=7, schedule=schedule, **(how | changes))
    sampler = create_sampler("instance", images().labels, seed=5, epochs=epochs)
    return model, objective, train_network(model, objective, images(), None, sampler, settings, CPU, scratch)


def batch_of(count: int) -> Batch:
    return next(images().train_batches(np.arange(count) * 3 % 29, count, 2, seed=0))


def trained(method, model, objective) -> nn.Module:
    """What the key encoder is a copy of."""
    return model if method is MoCo else nn.Sequential(model.backbone, objective.projector)


@both
def test_encoder_and_queue_move_by_their_equations_through_training(tmp_path, monkeypatch, method):
    """theta_k <- 0.8 theta_k + 0.2 theta_q from theta_k = theta_q at the start; the last 11 keys lie in the queue."""
    states, keys, original = [], deque(maxlen=11), method.after_step

    def after_step(self, model, position):
        states.append([p.detach().clone() for p in trained(method, model, self).parameters()])
        keys.extend(self._latest[0].tolist())
        original(self, model, position)

    monkeypatch.setattr(method, "after_step", after_step)
    expected = [p.detach().double() for p in trained(method, *create(method)).parameters()]
    model, objective, _ = run(tmp_path, method)
    assert len(states) == 16
    for state in states:
        expected = [0.8 * slow + 0.2 * fast for slow, fast in zip(expected, state, strict=True)]
    for slow, value in zip(objective.encoder.parameters(), expected, strict=True):
        close(slow.double(), value, 1e-5)  # float32, 16 steps
        assert slow.grad is None
    moved = zip(objective.encoder.parameters(), trained(method, model, objective).parameters(), strict=True)
    assert all(not torch.equal(slow, fast) for slow, fast in moved)
    assert objective.queue.keys.roll(-int(objective.queue.pointer), dims=0).tolist() == list(keys)
    assert objective.queue.pointer == 16 * 7 % 11


@both
def test_statistics_of_the_key_encoder_are_those_of_its_own_passes(tmp_path, method):
    model, objective, _ = run(tmp_path, method)
    own, other = objective.encoder.module, trained(method, model, objective)
    for (name, slow), fast in zip(own.named_buffers(), other.buffers(), strict=True):
        if name.endswith("num_batches_tracked"):
            assert (int(slow), int(fast)) == (16 * (3 if method is MoCo else 1), 16)
        else:
            assert not torch.equal(slow, fast), name


@both
@pytest.mark.parametrize("epoch", [1, 3])
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, monkeypatch, method, epoch):
    model, objective, whole = run(tmp_path / "whole", method)
    original = method.after_step

    class Stop(Exception):
        pass

    def after_step(self, model, position):
        original(self, model, position)
        if (position.epoch, position.step) == (epoch, 2):
            raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(method, "after_step", after_step)
        with pytest.raises(Stop):
            run(tmp_path / "cut", method)
    torch.rand(17)  # whatever the process did in between must not matter
    other_model, other_objective, outcome = run(tmp_path / "cut", method)
    assert outcome == whole and outcome.computed == (2 if epoch == 3 else 4)
    for one, other in ((model, other_model), (objective, other_objective)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    names = {name.split(".")[0] for name in objective.state_dict()}
    assert {"encoder", "queue"} <= names


@both
def test_fixed_statistics_of_the_backbone_are_fixed_in_the_key_encoder_too(tmp_path, method):
    _, objective, _ = run(tmp_path, method, epochs=1, bn_mode="eval")
    start = create(method)[0].backbone.state_dict()
    backbone = objective.encoder.module.backbone if method is MoCo else objective.encoder.module[0]
    for name, value in backbone.state_dict().items():
        if "running" in name or "num_batches" in name:
            assert torch.equal(value, start[name]), name


@both
def test_gradient_reaches_the_trained_networks_and_nothing_else(method):
    model, objective = create(method)
    objective.attach(model)
    with torch.no_grad():
        objective.queue.enqueue(unit_rows(torch.randn(11, 6)), torch.arange(11) % 4)
    objective.loss(model, batch_of(7), NOW)[0].backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    assert all(p.grad is None for p in objective.encoder.parameters())
    assert not objective.queue.keys.requires_grad and not objective._latest[0].requires_grad


@both
@pytest.mark.parametrize("filled", [False, True])
def test_batch_of_one_image_has_a_finite_loss_and_gradient(method, filled):
    model, objective = create(method)
    objective.attach(model)
    if filled:
        objective.queue.enqueue(unit_rows(torch.randn(11, 6)), torch.arange(11) % 4)
    loss, logs = objective.loss(model, batch_of(1), NOW)
    loss.backward()
    objective.after_step(model, NOW)
    assert all(torch.isfinite(value) for value in (loss, *logs.values()))
    trained_parameters = [*model.parameters(), *(p for p in objective.parameters() if p.requires_grad)]
    assert all(torch.isfinite(p.grad).all() for p in trained_parameters)
    assert torch.isfinite(objective.queue.keys).all()


@both
def test_bf16_rounds_the_networks_alone(method):
    model, objective = create(method)
    objective.attach(model)
    torch.manual_seed(0)
    plain, _ = objective.loss(model, batch_of(14), NOW)
    exact = objective._latest[0]
    with autocast(CPU, "bf16"):
        torch.manual_seed(0)
        loss, _ = objective.loss(model, batch_of(14), NOW)
    assert loss.dtype == torch.float32 and objective._latest[0].dtype == torch.float32
    close(objective._latest[0].norm(dim=1), torch.ones(14))
    assert not torch.equal(objective._latest[0], exact)
    close(loss, plain, 0.05)  # bf16 keeps 8 bits of the networks' outputs


@both
def test_no_value_is_read_back_from_the_device(method):
    model, objective = create(method)
    objective.attach(model)
    batch = batch_of(7)
    with no_host_reads():
        for _ in range(3):
            loss, _ = objective.loss(model, batch, NOW)
            loss.backward()
            objective.after_step(model, NOW)
    with pytest.raises(AssertionError, match="_local_scalar_dense"), no_host_reads():
        loss.item()
