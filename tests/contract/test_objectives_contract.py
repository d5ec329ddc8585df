"""What every objective of the registry promises, with every train rule that it has."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from longtail.config import Train
from longtail.data.batches import MemoryImages
from longtail.data.samplers import create_sampler
from longtail.data.transforms import Transform
from longtail.engine import trainer
from longtail.engine.extract import outputs
from longtail.engine.objective import Setting
from longtail.engine.schedule import create_schedule
from longtail.engine.trainer import Settings, train
from longtail.errors import TrainingError
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.models.stored import load_backbone, save_backbone
from longtail.objectives.registry import OBJECTIVES

CPU = torch.device("cpu")
COUNTS = np.array([40, 12, 4, 1])
CASES = [(name, rule) for name in OBJECTIVES for rule in ("none", "drw")]
each = pytest.mark.parametrize(("name", "rule"), CASES, ids=lambda value: value)


def images(seed: int = 0) -> MemoryImages:
    labels = np.repeat(np.arange(len(COUNTS)), COUNTS)
    pixels = np.random.default_rng(seed).integers(0, 100, (len(labels), 8, 8, 3)) + 40 * labels[:, None, None, None]
    transform = Transform("crop_flip", (0.4,) * 3, (0.2,) * 3, 8)
    return MemoryImages(pixels.astype(np.uint8), labels, transform, CPU)


def create(name: str, rule: str, epochs: int):
    """Model and objective as the stage builds them."""
    torch.manual_seed(1)
    backbone = create_backbone("resnet8", in_channels=3, width=4)
    config = Train(objective=name, rule=rule, drw_epoch=epochs // 2)  # type: ignore[arg-type]
    head = "cosine" if name == "ldam" else "linear"
    features = int(backbone.num_features)  # type: ignore[arg-type]
    kind = OBJECTIVES[name]
    setting = Setting(len(COUNTS), COUNTS, features, epochs, seed=7, head=head, scale=30.0)
    objective = kind(setting, **{option: getattr(config, option) for option in kind.options})
    return Classifier(backbone, objective.create_head()), objective


def run(scratch: Path, name: str, rule: str, epochs: int = 2, **changes):
    model, objective = create(name, rule, epochs)
    schedule = create_schedule("constant", epochs=epochs)
    how = {"batch_size": 8, "lr": 0.02, "momentum": 0.9, "weight_decay": 1e-3, "seed": 3, "progress": "off"}
    settings = Settings(epochs=epochs, schedule=schedule, checkpoint_every=1, **(how | changes))
    sampler = create_sampler("instance", images().labels, seed=5, epochs=epochs)
    return model, objective, train(model, objective, images(), None, sampler, settings, CPU, scratch)


@each
def test_loss_falls_and_stays_finite_with_a_class_of_one_image(tmp_path, name, rule):
    _, _, outcome = run(tmp_path, name, "none", epochs=12)
    losses = [row["loss"] for row in outcome.history]
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.8 * losses[0]
    deferred = run(tmp_path / "rule", name, rule, epochs=2)[2]
    assert np.isfinite([row["loss"] for row in deferred.history]).all()


@each
def test_resumed_run_has_the_bits_of_an_uninterrupted_one(tmp_path, monkeypatch, name, rule):
    model, objective, whole = run(tmp_path / "whole", name, rule, epochs=4)
    original, saves = trainer._save, []

    def interrupted(*arguments: object) -> None:
        original(*arguments)
        saves.append(1)
        if len(saves) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut", name, rule, epochs=4)
    other_model, other_objective, outcome = run(tmp_path / "cut", name, rule, epochs=4)
    assert outcome == whole
    for one, other in ((model, other_model), (objective, other_objective)):
        for key, tensor in one.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[key]), key


@each
def test_exported_backbone_gives_the_same_features_and_holds_nothing_of_the_objective(tmp_path, name, rule):
    model, _, _ = run(tmp_path, name, rule)
    weight, bias = model.head.export()
    head = {"weight": weight} | ({} if bias is None else {"bias": bias})
    save_backbone(tmp_path / "backbone.pt", model.backbone, {"name": "resnet8", "channels": 3, "width": 4}, head)
    backbone, stored, _, _ = load_backbone(tmp_path / "backbone.pt", "train_backbone")
    assert backbone.state_dict().keys() == create_backbone("resnet8", in_channels=3, width=4).state_dict().keys()
    features = outputs(backbone, images(), 16, "features", "off")
    logits = outputs(model, images(), len(COUNTS), "logits", "off")
    rows = torch.from_numpy(features)
    if model.head.kind == "cosine":
        rows = model.head.scale * torch.nn.functional.normalize(rows)
    ours = torch.nn.functional.linear(rows, stored["weight"], stored.get("bias")).numpy()
    np.testing.assert_allclose(ours, logits, rtol=1e-4, atol=1e-4)


@each
def test_batch_of_one_image_has_a_finite_loss_and_gradient(name, rule):
    from longtail.engine.objective import Moment

    model, objective = create(name, rule, 2)
    objective.attach(model)
    model.train()
    for row in (0, len(images().labels) - 1):
        batch = next(iter(images().train_batches(np.array([row]), 1, objective.views, 0)))
        loss, _ = objective.loss(model, batch, Moment(1, 2, 0, 1))
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(p.grad).all() for p in model.parameters())


@each
def test_loss_that_is_not_finite_is_refused(tmp_path, name, rule):
    with pytest.raises(TrainingError, match="not finite in epoch 1 of 2"):
        run(tmp_path, name, rule, lr=1e30, weight_decay=1.0)


@each
def test_evaluation_knows_nothing_of_the_objective(name, rule):
    """Margins, priors and weights act in the loss alone: eval mode gives the head's own logits."""
    model, objective = create(name, rule, 2)
    before = outputs(model, images(), len(COUNTS), "logits", "off")
    other = copy.deepcopy(objective)
    for buffer in other.buffers():
        buffer.zero_()
    assert np.array_equal(outputs(model, images(), len(COUNTS), "logits", "off"), before)
    assert model.head.kind == ("cosine" if name == "ldam" else "linear")
