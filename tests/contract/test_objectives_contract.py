"""What every registered objective and pretraining method promises; objectives with each train rule that they have.

And what the steps of every run promise: nothing in them makes the host wait for the device.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from longtail.augment.policies import memory_policies
from longtail.augment.transforms import Transform
from longtail.core.errors import TrainingError
from longtail.core.params import keys_of
from longtail.data.samplers import create_sampler
from longtail.methods.implementation import Implemented
from longtail.methods.objectives import OBJECTIVES
from longtail.methods.objectives.params import TrainParams, create_objective
from longtail.methods.objectives.weighting import Weighted
from longtail.methods.pretraining import METHODS
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.models.stored import load_backbone, save_backbone
from longtail.train.batches import MemoryImages
from longtail.train.checkpointing import CheckpointStore
from longtail.train.extract import outputs
from longtail.train.network import TrainingSettings, train_network
from longtail.train.objective import Objective, Position, TaskInfo
from longtail.train.optimizer import create_optimizer
from longtail.train.optimizer_step import OptimizerStep
from longtail.train.schedule import create_schedule
from tests.host_reads import no_host_reads

CPU = torch.device("cpu")
COUNTS = np.array([40, 12, 4, 1])
PRETRAINING = "pretraining"
TRAINING = [
    (name, rule)
    for name, entry in OBJECTIVES.entries().items()
    for rule in ("none", "drw")
    if rule == "none" or entry.weighted
]
CASES = TRAINING + [(name, PRETRAINING) for name in METHODS.names()]


def over(cases: list[tuple[str, str]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("name", "rule"), cases, ids=lambda value: value)


each = over(CASES)  # with deferred weights too, for what depends on the epoch
each_objective = over([case for case in CASES if case[1] != "drw"])
each_of_training = over([case for case in TRAINING if case[1] != "drw"])


def images(seed: int = 0, policy: str = "crop_flip") -> MemoryImages:
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    pixels = np.random.default_rng(seed).integers(0, 100, (len(labels), 8, 8, 3)) + 40 * labels[:, None, None, None]
    pixels += 8 * np.arange(8)[:, None, None]  # brighter below: a direction for rotations
    transform = Transform(policy, (0.4,) * 3, (0.2,) * 3, 8)
    return MemoryImages(pixels.astype(np.uint8), labels, transform, CPU)


def entry_of(name: str, rule: str) -> Implemented:
    return METHODS.get(name) if rule == PRETRAINING else OBJECTIVES.get(name)


def has_queue(entry: Implemented) -> bool:
    return entry.params is not None and "queue" in keys_of(entry.params)


def create(name: str, rule: str, epochs: int, own: dict | None = None, **train: object) -> tuple[Classifier, Objective]:
    """Model and objective as the stages build them. ``own`` are its own parameters, ``train`` those of training."""
    torch.manual_seed(1)
    backbone = create_backbone("resnet8", in_channels=3, width=4)
    features = int(backbone.num_features)  # type: ignore[arg-type]
    entry = entry_of(name, rule)
    # A queue that is full after the first epoch: as long as it fills, there is ever more to be told apart.
    options = ({"queue": 16} if has_queue(entry) else {}) | (own or {})
    params = entry.params(**options) if entry.params is not None else None
    if rule == PRETRAINING:
        task = TaskInfo(len(COUNTS), COUNTS, features, epochs, seed=7)
        objective = entry.load()(task, **(vars(params) if params is not None else {}))
    else:
        drw_epoch = {"drw_epoch": epochs // 2} if rule == "drw" else {}
        config = TrainParams(objective=name, rule=rule, epochs=epochs, **(drw_epoch | train))
        task = TaskInfo(len(COUNTS), COUNTS, features, epochs, 7, head=config.head_kind, scale=config.scale)
        objective = create_objective(task, config, params)
    return Classifier(backbone, objective.create_head()), objective


def run(scratch: Path, name: str, rule: str, epochs: int = 2, **changes):
    model, objective = create(name, rule, epochs)
    schedule = create_schedule("constant", epochs=epochs)
    how = {"batch_size": 8, "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3, "seed": 3, "progress": "off"}
    settings = TrainingSettings(epochs=epochs, schedule=schedule, checkpoint_every=1, **(how | changes))
    sampler = create_sampler("instance", images().labels, seed=5, epochs=epochs)
    return model, objective, train_network(model, objective, images(), None, sampler, settings, CPU, scratch)


@each_objective
def test_entry_tells_without_torch_what_its_implementation_is(name, rule):
    entry = entry_of(name, rule)
    implementation = entry.load()
    assert issubclass(implementation, Objective) and implementation.views == entry.views
    if rule != PRETRAINING:
        assert issubclass(implementation, Weighted) is entry.weighted and entry.head in entry.heads
    if entry.params is not None:
        assert entry.params.path == f"{'pretrain' if rule == PRETRAINING else 'train'}.{name}"


@each_objective
def test_loss_falls_and_stays_finite_with_a_class_of_one_image(tmp_path, name, rule):
    """Methods with a queue meet a random or empty one at first, so that their loss falls from the epoch that filled it.
    A pretraining with a queue is to tell 57 images of noise apart, so that its loss falls a little."""
    contrasts = rule == PRETRAINING and has_queue(entry_of(name, rule))
    _, _, outcome = run(tmp_path, name, rule, epochs=16)
    losses = [row["loss"] for row in outcome.history]
    assert np.isfinite(losses).all()
    highest = max(losses[:4])
    assert np.mean(losses[-3:]) < highest - (0.05 if contrasts else 0.2) * abs(highest)


@over([case for case in TRAINING if case[1] == "drw"])
def test_loss_with_deferred_weights_stays_finite_with_a_class_of_one_image(tmp_path, name, rule):
    _, _, outcome = run(tmp_path, name, rule, epochs=2)
    assert np.isfinite([row["loss"] for row in outcome.history]).all()


@each
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, monkeypatch, name, rule):
    model, objective, whole = run(tmp_path / "whole", name, rule, epochs=4)
    original, saves = CheckpointStore.save, []

    def interrupted(*arguments: object) -> None:
        original(*arguments)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", name, rule, epochs=4)
    other_model, other_objective, outcome = run(tmp_path / "cut", name, rule, epochs=4)
    assert outcome == whole
    for one, other in ((model, other_model), (objective, other_objective)):
        assert one.state_dict().keys() == other.state_dict().keys()
        for key, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key]), key


@each_objective
def test_every_parameter_learns_and_every_number_of_the_curves_is_finite(tmp_path, name, rule):
    start_model, start_objective = create(name, rule, 2)
    model, objective, outcome = run(tmp_path, name, rule)
    assert np.isfinite([list(row.values()) for row in outcome.history]).all()
    for one, start in ((model, start_model), (objective, start_objective)):
        for key, tensor in start.named_parameters():
            assert not torch.equal(one.get_parameter(key), tensor), key


@each_of_training
def test_exported_backbone_gives_the_same_features_and_holds_nothing_of_the_objective(tmp_path, name, rule):
    model, _, _ = run(tmp_path, name, rule)
    head = model.head.export()
    save_backbone(
        tmp_path / "backbone.safetensors", model.backbone, {"name": "resnet8", "channels": 3, "width": 4}, head
    )
    backbone, stored, _, _ = load_backbone(tmp_path / "backbone.safetensors", "train_backbone")
    assert backbone.state_dict().keys() == create_backbone("resnet8", in_channels=3, width=4).state_dict().keys()
    features = outputs(backbone, images(), 16, "features", "off")
    logits = outputs(model, images(), len(COUNTS), "logits", "off")
    np.testing.assert_allclose(stored.scores(features), logits, rtol=1e-4, atol=1e-4)


@each_objective
def test_batch_of_one_image_has_a_finite_loss_and_gradient(name, rule):
    for row in (0, len(images().labels) - 1):
        model, objective = create(name, rule, 2)
        objective.attach(model)
        model.train()
        batch = next(iter(images().train_batches(np.array([row]), 1, objective.views, 0)))
        if objective.partner_sampler(images().labels) is not None:
            batch.partner = next(iter(images().train_batches(np.array([3]), 1, objective.views, 1)))
        optimizer = create_optimizer("sgd", [model, objective], lr=0.1, momentum=0.9, weight_decay=0.0)
        update = OptimizerStep(optimizer, CPU)
        loss, logs = objective.step(model, batch, Position(1, 2, 0, 1), update)
        objective.after_step(model, Position(1, 2, 0, 1))
        assert torch.isfinite(loss) and all(torch.isfinite(value) for value in logs.values())
        assert not update.has_failed() and all(torch.isfinite(p.grad).all() for p in model.parameters())


@each_objective
def test_loss_that_is_not_finite_is_refused(tmp_path, name, rule):
    with pytest.raises(TrainingError, match="not finite in epoch 1 of 2"):
        run(tmp_path, name, rule, lr=1e30, weight_decay=1.0)


@each_of_training
def test_evaluation_knows_nothing_of_the_objective(tmp_path, name, rule):
    """Margins, priors, weights, scaling and what else an objective owns act in training alone."""
    model, objective, _ = run(tmp_path, name, rule)
    before = outputs(model, images(), len(COUNTS), "logits", "off")
    with torch.no_grad():
        for tensor in (*objective.buffers(), *objective.parameters()):
            tensor.zero_()
    assert np.array_equal(outputs(model, images(), len(COUNTS), "logits", "off"), before)
    assert model.head.export().kind == entry_of(name, rule).head
    own = {id(module) for module in objective.modules() if not isinstance(module, nn.Identity)}
    assert not own & {id(module) for module in model.modules()}


# Nothing waits for the device

VARIANTS = {
    "mixup": ("ce", "none", {}, {"mix": "mixup"}),
    "mixup with other shares": ("ce", "none", {}, {"mix": "mixup", "mix_alpha": 0.4}),
    "cutmix": ("ce", "drw", {}, {"mix": "cutmix"}),
    "released focal": ("focal", "reweight", {"released": True}, {}),
    "glmc": ("fsgl", "none", {"gamma": 0.0, "rho": 0.0}, {}),
    "fsgl of all options": (
        "fsgl",
        "none",
        {"freeze_bn_second": True, "cutmix_area_label": True, "masked_bce_weight": 1.0},
        {},
    ),
    "bns of the paper": ("bns", PRETRAINING, {"variant": "paper"}, {}),
}
STEPS = {f"{name}-{rule}": (name, rule, {}, {}) for name, rule in CASES} | VARIANTS


@pytest.mark.parametrize(("name", "rule", "own", "train"), STEPS.values(), ids=STEPS)
def test_step_reads_nothing_on_the_host(name, rule, own, train):
    """The second one: a first may bring tables to the device."""
    model, objective = create(name, rule, 2, own, **train)
    objective.attach(model)
    model.train()
    rows = np.arange(16) * 3
    batches = list(images().train_batches(rows, 8, objective.views, 0))
    if objective.partner_sampler(images().labels) is not None:
        for batch, partner in zip(batches, images().train_batches(rows + 5, 8, objective.views, 1), strict=True):
            batch.partner = partner
    update = OptimizerStep(create_optimizer("sgd", [model, objective], lr=0.01, momentum=0.9, weight_decay=1e-3), CPU)
    first, second = (Position(1, 2, step, 2) for step in range(2))
    objective.step(model, batches[0], first, update)
    objective.after_step(model, first)
    with no_host_reads():
        loss, _ = objective.step(model, batches[1], second, update)
        objective.after_step(model, second)
    assert torch.isfinite(loss)


@pytest.mark.parametrize("policy", memory_policies())
def test_drawing_a_batch_of_images_in_memory_reads_nothing_on_the_host(policy):
    batches = images(policy=policy).train_batches(np.arange(24), 8, 2, 0)
    next(batches)
    with no_host_reads():
        batch = next(batches)
    assert [view.shape for view in batch.views] == [(8, 3, 8, 8)] * 2


class Reads(torch.autograd.Function):
    """The identity, with a backward pass that reads its gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float(gradient[0, 0])


X, MASK, INTEGERS = torch.ones(2, 3), torch.tensor([True, False, True]), torch.arange(3)


@pytest.mark.parametrize(
    "reading",
    [
        lambda: X.sum().item(),
        lambda: bool((X > 0).any()),
        lambda: X.tolist(),
        lambda: X.cpu(),
        lambda: np.asarray(X),
        lambda: X[:, MASK],
        lambda: MASK.nonzero(),
        lambda: INTEGERS.unique(),
        lambda: INTEGERS.repeat_interleave(INTEGERS),
        lambda: torch.equal(X, X),
        lambda: torch.nn.functional.one_hot(INTEGERS),
        lambda: torch.tensor([1.0, 2.0]),
        lambda: torch.from_numpy(np.ones(2)),
        lambda: X[:, [0, 2]],
        lambda: Reads.apply(X.clone().requires_grad_()).sum().backward(),
    ],
)
def test_what_would_wait_for_a_device_is_refused(reading):
    reading()
    with pytest.raises(AssertionError, match="makes the host wait"), no_host_reads():
        reading()


def test_what_does_not_wait_gives_what_it_gives_without_the_guard():
    def compute() -> list[torch.Tensor]:
        return [torch.nn.functional.one_hot(INTEGERS, 5), X[:, INTEGERS], torch.where(MASK, X, 0.0), X.double()]

    with no_host_reads():
        found = compute()
    for one, other in zip(found, compute(), strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)
