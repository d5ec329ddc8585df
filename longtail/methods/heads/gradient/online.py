"""cRT and LWS ``online``: augmented images through the frozen backbone, instead of stored features.

Source: Kang et al. 2020, official code. With ``bn_mode: train`` the frozen backbone normalizes by batch statistics and
its running statistics drift, as in the released code; with ``eval`` they stay as stage 1 left them.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from longtail.core.seeds import derive_seed
from longtail.data.samplers import create_sampler
from longtail.methods.heads.gradient.params import HeadTrainingParams
from longtail.methods.objectives.ce.objective import CrossEntropy
from longtail.models.classifier import Classifier
from longtail.train.batches import ImageSet
from longtail.train.extract import outputs
from longtail.train.network import TrainingSettings, train_network
from longtail.train.objective import TaskInfo
from longtail.train.params import RuntimeParams
from longtail.train.schedule import create_schedule


@dataclass(frozen=True)
class OnlineOutcome:
    """The trained head, its logits (M, C) of the test images, and one row of history per epoch."""

    head: nn.Module
    test_scores: np.ndarray
    history: list[dict[str, float]]
    chosen_epoch: int


def train_online(
    method: str,
    backbone: nn.Module,
    head: nn.Module,
    train_images: ImageSet,
    val_images: ImageSet | None,
    test_images: ImageSet,
    num_classes: int,
    params: HeadTrainingParams,
    runtime: RuntimeParams,
    seed: int,
    device: torch.device,
    scratch: Path,
) -> OnlineOutcome:
    """Train ``head`` on top of the frozen ``backbone`` with class-aware batches. The backbone keeps its weights."""
    labels = train_images.labels
    counts = np.bincount(labels, minlength=num_classes)
    task = TaskInfo(num_classes, counts, backbone.num_features, params.epochs, seed)  # type: ignore[arg-type]
    sampler = create_sampler(
        "class_aware",
        labels,
        seed=derive_seed(seed, method, "sampler"),
        epochs=params.epochs,
        samples_per_class=params.samples_per_class,
    )
    settings = TrainingSettings(
        epochs=params.epochs,
        batch_size=params.batch_rows(len(labels)),
        lr=params.released_lr,
        momentum=params.momentum,
        weight_decay=params.released_weight_decay,
        schedule=create_schedule("cosine", epochs=params.epochs),
        seed=seed,
        trainable="head",
        bn_mode=params.bn_mode,
        select="last" if params.select == "auto" else params.select,
        compile=runtime.compile,
        checkpoint_every=runtime.checkpoint_every,
        progress=runtime.progress,
        label=f"{method} online",
    )
    model = Classifier(backbone, head)
    outcome = train_network(model, CrossEntropy(task), train_images, val_images, sampler, settings, device, scratch)
    scores = outputs(model, test_images, num_classes, f"{method} on test", runtime.progress)
    return OnlineOutcome(head, scores, outcome.history, outcome.chosen_epoch)
