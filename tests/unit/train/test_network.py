"""Training of networks: resume, determinism, and everything that an objective may ask for."""

import copy
import hashlib
import logging
import multiprocessing
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from longtail.artifacts.checkpoints import load_checkpoint
from longtail.augment.transforms import Transform
from longtail.core.errors import ConfigError, TrainingError
from longtail.data.samplers import create_sampler
from longtail.methods.ipdpp.finetuning import SubsetSampler, label_log_probability
from longtail.methods.objectives.ce.objective import CrossEntropy
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train import network
from longtail.train.batches import Batch, MemoryImages, PathImages
from longtail.train.network import TrainingSettings, accuracy, train_network, training_curves
from longtail.train.objective import Objective, Position, TaskInfo
from longtail.train.schedule import create_schedule

CPU = torch.device("cpu")
N, C = 45, 3


class Demanding(Objective):
    """All that an objective may ask for at once: two views, a partner batch, a second pass from moved weights (SAM), a
    momentum encoder, a queue, an extra head, and a loss that depends on the epoch."""

    views = 2

    def __init__(self, task: TaskInfo) -> None:
        super().__init__(task)
        self.projection = torch.nn.Linear(task.num_features, 4)
        self.register_buffer("queue", torch.zeros(16, 4))

    def attach(self, model: Classifier) -> None:
        self.momentum_backbone = copy.deepcopy(model.backbone).requires_grad_(False)

    def partner_sampler(self, labels: np.ndarray):
        return create_sampler("square_root", labels, seed=self.task.seed, epochs=self.task.epochs)

    def loss(self, model: Classifier, batch: Batch, position: Position):
        assert len(batch.views) == 2 and batch.partner is not None
        assert not torch.equal(*batch.views), "each view has its own random parameters"
        weight = 1 - (position.epoch / position.epochs) ** 2
        lam = torch.rand(())
        mixed = lam * batch.views[0] + (1 - lam) * batch.partner.views[1]
        features = model.forward_features(mixed)
        loss = F.cross_entropy(model.head(features), batch.labels)
        with torch.no_grad():
            self.keys = F.normalize(self.projection(self.momentum_backbone(batch.views[1])))
        queries = F.normalize(self.projection(features))
        return weight * loss - (queries * self.keys).sum(1).mean() + (queries @ self.queue.T).mean(), {"weighted": loss}

    def step(self, model, batch, position, update):
        loss, logs = self.loss(model, batch, position)
        update.backward(loss)
        moved = [(p, p.grad) for p in model.parameters() if p.grad is not None]
        with torch.no_grad():
            norm = torch.sqrt(sum((g**2).sum() for _, g in moved)) + 1e-12
            kept = [p.clone() for p, _ in moved]
            for p, g in moved:
                p.add_(0.05 * g / norm)
        second, _ = self.loss(model, batch, position)
        update.backward(second)
        with torch.no_grad():
            for (p, _), original in zip(moved, kept, strict=True):
                p.copy_(original)
        update.apply()
        return loss.detach(), logs

    @torch.no_grad()
    def after_step(self, model, position):
        for slow, fast in zip(self.momentum_backbone.parameters(), model.backbone.parameters(), strict=True):
            slow.lerp_(fast, 0.1)
        self.queue.copy_(torch.cat([self.keys, self.queue])[: len(self.queue)])


class MeetsItself(Objective):
    """A partner batch of the very images of the batch; keeps what it sees."""

    partner = "class_aware", 5  # the sampler of ``run`` and its seed

    def __init__(self, task: TaskInfo) -> None:
        super().__init__(task)
        self.seen: list[Batch] = []

    def partner_sampler(self, labels: np.ndarray):
        name, seed = self.partner
        return create_sampler(name, labels, seed=seed, epochs=self.task.epochs)

    def loss(self, model: Classifier, batch: Batch, position: Position):
        self.seen.append(batch)
        return F.cross_entropy(model(batch.views[0]), batch.labels), {}


class MeetsOthers(MeetsItself):
    partner = "square_root", 9


class ExplodesInEpoch(Objective):
    """Cross-entropy until the step (epoch, step), then NaN."""

    at = (2, 1)

    def loss(self, model: Classifier, batch: Batch, position: Position):
        loss = F.cross_entropy(model(batch.views[0]), batch.labels)
        if (position.epoch, position.step) == self.at:
            self.before = {name: value.clone() for name, value in model.named_parameters()}
            loss = loss * float("nan")
        return loss, {}


def images(count: int = N) -> MemoryImages:
    labels = np.repeat(np.arange(C), [count - 15, 10, 5]).astype(np.int64)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (count, 8, 8, 3)) + 50 * labels[:, None, None, None]
    transform = Transform("crop_flip", (0.4, 0.4, 0.4), (0.2, 0.2, 0.2), 8)
    return MemoryImages(pixels.astype(np.uint8), labels, transform, CPU)


def fresh(objective_class, epochs: int):
    torch.manual_seed(1)
    backbone = create_backbone("resnet8", in_channels=3, width=4)
    objective = objective_class(TaskInfo(C, np.array([N - 15, 10, 5]), backbone.num_features, epochs, seed=7))
    return Classifier(backbone, objective.create_head()), objective


def settings(epochs: int = 6, **changes) -> TrainingSettings:
    schedule = create_schedule("cosine", epochs=epochs)
    values = {"batch_size": 8, "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3, "seed": 3, "progress": "off"}
    return TrainingSettings(epochs=epochs, schedule=schedule, checkpoint_every=2, **(values | changes))


def run(scratch: Path, objective_class=CrossEntropy, epochs: int = 6, val: bool = False, **changes):
    model, objective = fresh(objective_class, epochs)
    sampler = create_sampler("class_aware", images().labels, seed=5, epochs=epochs)
    outcome = train_network(
        model, objective, images(), images() if val else None, sampler, settings(epochs, **changes), CPU, scratch
    )
    return model, objective, outcome


class Stop(Exception):
    pass


def interrupt_in_epoch(monkeypatch: pytest.MonkeyPatch, objective_class, epoch: int) -> None:
    original = objective_class.after_step

    def after_step(self, model, position):
        original(self, model, position)
        if (position.epoch, position.step) == (epoch, 2):
            raise Stop

    monkeypatch.setattr(objective_class, "after_step", after_step)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("objective_class", [CrossEntropy, Demanding])
@pytest.mark.parametrize("epoch", [0, 3, 5])
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, monkeypatch, objective_class, epoch, optimizer):
    how = {"val": True, "select": "best_val", "optimizer": optimizer, "lr": 0.05 if optimizer == "sgd" else 0.003}
    first_model, first_objective, uninterrupted = run(tmp_path / "uninterrupted", objective_class, **how)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, objective_class, epoch)
        with pytest.raises(Stop):
            run(tmp_path / "cut", objective_class, **how)
    torch.rand(17)  # whatever the process did in between must not matter
    model, objective, outcome = run(tmp_path / "cut", objective_class, **how)
    assert outcome == uninterrupted
    for one, other in ((model, first_model), (objective, first_objective)):
        for name, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_resumed_run_has_the_same_bits_in_channels_last_order(tmp_path, monkeypatch, optimizer):
    """The memory order of a GPU run: momentum has to come back in the order of its parameter."""

    plain = fresh

    def start(objective_class, epochs):
        model, objective = plain(objective_class, epochs)
        return model.to(memory_format=torch.channels_last), objective

    monkeypatch.setitem(run.__globals__, "fresh", start)
    uninterrupted, _, outcome = run(tmp_path / "uninterrupted", optimizer=optimizer)
    assert uninterrupted.backbone.stages[0][0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, CrossEntropy, 3)
        with pytest.raises(Stop):
            run(tmp_path / "cut", optimizer=optimizer)
    model, _, resumed = run(tmp_path / "cut", optimizer=optimizer)
    assert resumed == outcome
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, uninterrupted.state_dict()[name]), name


def test_partner_batch_of_the_same_images_has_an_augmentation_of_its_own(tmp_path):
    _, objective, _ = run(tmp_path, MeetsItself, epochs=2)
    pairs = [(batch, batch.partner) for batch in objective.seen]
    assert len(pairs) == 2 * (N // 8)
    assert all(torch.equal(one.rows, other.rows) and torch.equal(one.labels, other.labels) for one, other in pairs)
    same = torch.cat([(one.views[0] == other.views[0]).flatten(1).all(dim=1) for one, other in pairs])
    assert same.float().mean() < 0.25, "of 18 crops and mirrorings the same by chance"


def test_partner_batches_follow_their_sampler_and_carry_their_labels(tmp_path):
    _, objective, _ = run(tmp_path, MeetsOthers, epochs=2)
    rows = torch.cat([batch.partner.rows for batch in objective.seen]).numpy()
    sampler = create_sampler("square_root", images().labels, seed=9, epochs=2)
    assert np.array_equal(rows, np.concatenate([sampler.epoch(epoch, 8 * (N // 8)) for epoch in range(2)]))
    labels = torch.cat([batch.partner.labels for batch in objective.seen]).numpy()
    assert np.array_equal(labels, images().labels[rows])


def test_resume_repeats_at_most_checkpoint_every_epochs(tmp_path, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, CrossEntropy, 5)
        with pytest.raises(Stop):
            run(tmp_path)
    with caplog.at_level(logging.INFO, logger="longtail"):
        run(tmp_path)
    assert "training: resuming after epoch 4" in caplog.messages


def test_checkpoint_that_is_damaged_is_not_resumed(tmp_path, monkeypatch, caplog):
    uninterrupted = run(tmp_path / "uninterrupted")[2]
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, CrossEntropy, 3)
        with pytest.raises(Stop):
            run(tmp_path / "cut")
    path = tmp_path / "cut" / "network.safetensors"
    path.write_bytes(path.read_bytes()[:-200])
    with caplog.at_level(logging.INFO, logger="longtail"):
        assert run(tmp_path / "cut")[2] == uninterrupted
    assert caplog.messages[0].startswith(f"starting over: checkpoint {path} cannot be read (is damaged")
    assert "dvc" not in caplog.text


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_loss_that_is_not_finite_stops_before_the_step_and_keeps_the_checkpoint(tmp_path, optimizer):
    model, objective = fresh(ExplodesInEpoch, 6)
    sampler = create_sampler("instance", images().labels, seed=5, epochs=6)
    with pytest.raises(TrainingError, match=r"epoch 3 of 6.*lr"):
        train_network(model, objective, images(), None, sampler, settings(optimizer=optimizer), CPU, tmp_path)
    for name, value in model.named_parameters():
        assert torch.equal(value, objective.before[name]), name
    assert load_checkpoint(tmp_path / "network.safetensors")[1]["epoch"] == 2


def test_training_lowers_the_loss_and_learns(tmp_path):
    model, _, outcome = run(tmp_path, epochs=24)
    assert outcome.history[-1]["loss"] < 0.5 * outcome.history[0]["loss"]
    assert accuracy(model, images(), CPU) > 0.9


def test_frozen_backbone_keeps_every_weight_and_buffer(tmp_path):
    model, _, _ = run(tmp_path, trainable="head", bn_mode="eval")
    start = fresh(CrossEntropy, 6)[0]
    for name, tensor in model.backbone.state_dict().items():
        assert torch.equal(tensor, start.backbone.state_dict()[name]), name
    assert not torch.equal(model.head.weight, start.head.weight)


def test_frozen_backbone_in_train_mode_drifts_in_its_statistics_alone(tmp_path):
    model, _, _ = run(tmp_path, trainable="head", bn_mode="train")
    start = fresh(CrossEntropy, 6)[0].backbone.state_dict()
    moved = {name for name, tensor in model.backbone.state_dict().items() if not torch.equal(tensor, start[name])}
    assert moved == {name for name in start if "running" in name or "num_batches" in name}


def test_best_val_returns_the_weights_of_the_first_best_epoch(tmp_path):
    model, _, outcome = run(tmp_path, val=True, select="best_val", epochs=8)
    scores = [row["val_accuracy"] for row in outcome.history]
    assert outcome.chosen_epoch == scores.index(max(scores)) + 1
    assert accuracy(model, images(), CPU) == max(scores)


def test_batch_above_the_number_of_images_becomes_it(tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="longtail"):
        run(tmp_path, epochs=1, batch_size=10_000)
    assert f"training: batch_size 10000 is more than the {N} training images; {N} is used" in caplog.messages


class NotesItsBatches(Objective):
    """Cross-entropy that keeps the rows of every batch."""

    def loss(self, model: Classifier, batch: Batch, position: Position):
        self.seen = [*getattr(self, "seen", []), batch.rows.tolist()]
        assert position.steps == self.expected_steps
        return F.cross_entropy(model(batch.views[0]), batch.labels), {}


@pytest.mark.parametrize(
    ("count", "drop_last", "sizes"),
    [(45, True, [8] * 5), (45, False, [8] * 5 + [5]), (41, False, [8] * 5), (40, False, [8] * 5), (9, False, [8])],
)
def test_last_batch_is_kept_unless_dropped_or_of_a_single_image(tmp_path, count, drop_last, sizes):
    model, objective = fresh(NotesItsBatches, 2)
    objective.expected_steps = len(sizes)
    labels = np.arange(count) % C
    pixels = np.random.default_rng(0).integers(0, 255, (count, 8, 8, 3)).astype(np.uint8)
    data = MemoryImages(pixels, labels, Transform("none", (0.4,) * 3, (0.2,) * 3, 8), CPU)
    sampler = create_sampler("instance", labels, seed=5, epochs=2)
    train_network(model, objective, data, None, sampler, settings(2, drop_last=drop_last), CPU, tmp_path)
    assert [len(rows) for rows in objective.seen] == sizes * 2
    first = [row for rows in objective.seen[: len(sizes)] for row in rows]
    assert len(set(first)) == len(first), "no image twice in an epoch"


def log_probabilities(model: Classifier) -> np.ndarray:
    """Log p of each training image's label, by the model as it is."""
    data = images()
    logits = torch.cat([model(pixels) for pixels, _ in data.eval_batches(16)])
    return label_log_probability(logits.detach().numpy(), data.labels)


def run_on_subsets(scratch: Path, epochs: int = 8):
    model, objective = fresh(CrossEntropy, epochs)
    sampler = SubsetSampler(
        images().labels, 8, every=3, seed=11, log_probability=lambda current, number: log_probabilities(current)
    )
    how = settings(epochs, drop_last=False, optimizer="adamw", lr=0.003)
    return model, sampler, train_network(model, objective, images(), images(), sampler, how, CPU, scratch)


@pytest.mark.parametrize("epoch", [1, 3, 5, 7])
def test_resume_across_a_selection_of_images_has_the_same_bits(tmp_path, monkeypatch, epoch):
    """Rounds begin with epochs 0, 3 and 6, checkpoints lie behind epochs 2, 4, 6 and 8."""
    first_model, first_sampler, uninterrupted = run_on_subsets(tmp_path / "uninterrupted")
    with monkeypatch.context() as patch:
        interrupt_in_epoch(patch, CrossEntropy, epoch)
        with pytest.raises(Stop):
            run_on_subsets(tmp_path / "cut")
    model, sampler, outcome = run_on_subsets(tmp_path / "cut")
    assert outcome == uninterrupted
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, first_model.state_dict()[name]), name
    assert len(sampler.rounds) == len(first_sampler.rounds) == 3
    for one, other in zip(sampler.rounds, first_sampler.rounds, strict=True):
        for column in ("selected", "inclusion_probability", "log_probability"):
            assert np.array_equal(getattr(one, column), getattr(other, column)), column


def test_sampler_meets_the_model_in_eval_mode_and_training_goes_on_in_its_own(tmp_path):
    model, objective = fresh(CrossEntropy, 2)
    met = []

    def look(current: Classifier, number: int) -> np.ndarray:
        met.append(any(module.training for module in current.modules()))
        return log_probabilities(current)

    sampler = SubsetSampler(images().labels, 8, every=1, seed=11, log_probability=look)
    train_network(model, objective, images(), None, sampler, settings(2, bn_mode="eval"), CPU, tmp_path)
    assert met == [False, False]
    assert model.head.training and not model.backbone.training


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_model_computes_what_the_eager_one_does(tmp_path):
    eager, _, uninterrupted = run(tmp_path / "eager", epochs=1)
    compiled, _, outcome = run(tmp_path / "compiled", epochs=1, compile=True)
    assert outcome.history[0]["loss"] == pytest.approx(uninterrupted.history[0]["loss"], rel=1e-4)
    for name, tensor in compiled.state_dict().items():
        torch.testing.assert_close(tensor, eager.state_dict()[name], rtol=1e-3, atol=1e-4)


class DivergesInItsGradient(Objective):
    """A finite loss whose gradient is not: the square root at zero."""

    def loss(self, model: Classifier, batch: Batch, position: Position):
        logits = model(batch.views[0])
        loss = F.cross_entropy(logits, batch.labels)
        return (loss + (0 * logits.sum()).sqrt() if position.epoch == 3 else loss), {}


def test_weights_that_are_not_finite_are_never_checkpointed(tmp_path):
    with pytest.raises(TrainingError, match="weights are not finite in epoch 4 of 6"):
        run(tmp_path, DivergesInItsGradient)
    tensors, meta, _ = load_checkpoint(tmp_path / "network.safetensors")
    assert meta["epoch"] == 2 and all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_best_val_without_val_images_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="training: select must be last without validation images, got best_val"):
        run(tmp_path, select="best_val")


def test_single_image_batches_are_refused_while_batch_norm_takes_their_statistics(tmp_path):
    with pytest.raises(
        ConfigError, match=r"training: batch_size must be at least 2, got 1, .* bn_mode: eval fixes them"
    ):
        run(tmp_path, batch_size=1)
    _, _, outcome = run(tmp_path, epochs=1, batch_size=1, trainable="head", bn_mode="eval")
    assert np.isfinite(outcome.history[0]["loss"])


def test_one_epoch_of_the_cosine_schedule_trains_the_network(tmp_path):
    model, _, outcome = run(tmp_path, epochs=1)
    assert [row["lr"] for row in outcome.history] == [0.05]
    start = fresh(CrossEntropy, 1)[0]
    assert all(not torch.equal(value, start.get_parameter(name)) for name, value in model.named_parameters())


def test_accuracy_is_a_fraction_inside_and_percent_in_the_table(tmp_path):
    history = run(tmp_path, val=True)[2].history
    rows = len(images().labels)
    for row in history:
        assert row["val_accuracy"] in {correct / rows for correct in range(rows + 1)}
        assert 0 <= row["train_accuracy"] <= 1
    table = training_curves(history)
    assert list(table) == ["epoch", "lr", "loss", "train_accuracy", "val_accuracy"]
    for name in ("train_accuracy", "val_accuracy"):
        np.testing.assert_allclose(table[name], [100 * row[name] for row in history], atol=1e-6)
    for name in ("epoch", "lr", "loss"):
        assert table[name].tolist() == [row[name] for row in history]


def test_loader_processes_end_before_the_evaluation_after_an_epoch(tmp_path, monkeypatch):
    labels, paths, digests = np.arange(16) % 2, [], []
    for number in range(16):
        pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        paths.append(f"{number}.png")
        digests.append(hashlib.sha256((tmp_path / f"{number}.png").read_bytes()).hexdigest())
    transform = Transform("none", (0.4,) * 3, (0.2,) * 3, 8)
    files = PathImages(tmp_path, np.array(paths), np.array(digests), labels, transform, CPU, workers=1)
    alive = []
    original = network.accuracy

    def counted(*arguments):
        alive.append(len(multiprocessing.active_children()))
        return original(*arguments)

    before = len(multiprocessing.active_children())
    monkeypatch.setattr(network, "accuracy", counted)
    model, objective = fresh(CrossEntropy, 2)
    sampler = create_sampler("instance", labels, seed=5, epochs=2)
    train_network(model, objective, files, files, sampler, settings(2), CPU, tmp_path / "scratch")
    assert alive == [before, before]


class OfAnotherLength(MeetsOthers):
    """A partner sampler that gives one batch less or more than the epoch has."""

    more = 0

    def partner_sampler(self, labels: np.ndarray):
        sampler = super().partner_sampler(labels)
        sampler.epoch = lambda epoch, draws, draw=sampler.epoch: draw(epoch, draws + self.more)
        return sampler


@pytest.mark.parametrize(("more", "reason"), [(-8, "shorter"), (8, "longer")])
def test_partner_batches_must_be_as_many_as_batches(tmp_path, monkeypatch, more, reason):
    monkeypatch.setattr(OfAnotherLength, "more", more)
    with pytest.raises(ValueError, match=reason):
        run(tmp_path, OfAnotherLength, epochs=1)
