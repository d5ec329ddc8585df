"""The training of ``pretrain``, for methods that train."""

from typing import Any

import numpy as np
from torch import nn

from longtail.artifacts.tables import write_csv
from longtail.augment.params import NormalizeParams
from longtail.augment.transforms import resolve_policy, resolve_transform
from longtail.core.params import Group
from longtail.core.seeds import derive_seed
from longtail.data.samplers import FixedOrder, InstanceSampler
from longtail.methods.pretraining import METHODS
from longtail.methods.pretraining.params import PretrainParams
from longtail.models.classifier import Classifier
from longtail.models.stored import save_backbone
from longtail.train.network import train_network, training_curves
from longtail.train.objective import TaskInfo
from stages.context import Context
from stages.data import PreparedImages
from stages.paths import CURVES, PRETRAINED
from stages.training import training_settings


def pretrain(
    context: Context,
    params: PretrainParams,
    own: Group | None,
    backbone: nn.Module,
    meta: dict[str, Any],
) -> int:
    """Train the backbone and write it, without the method's own head.

    Returns the number of epochs that this process computed.
    """
    images = PreparedImages(context)
    entry = METHODS.get(params.method)
    policy = resolve_policy(images.info, params.augment, "pretrain.augment", entry.augment)
    given = context.top_level(NormalizeParams)
    transform = resolve_transform(
        images.info, policy, given.normalize, images.train_pixels, params.jitter_strength, crop=given.crop
    )
    labels = images.manifest.labels[images.split.train]
    seed = derive_seed(context.seed, "pretrain", params.method)
    task = TaskInfo(
        num_classes=images.info.num_classes,
        counts=np.bincount(labels),
        num_features=backbone.num_features,  # type: ignore[arg-type]
        epochs=params.epochs,
        seed=seed,
    )
    objective = entry.load()(task, **(vars(own) if own is not None else {}))
    model = Classifier(backbone, objective.create_head())
    sampler = InstanceSampler(labels, seed=seed, epochs=params.epochs)
    label = f"pretrain ({params.method})"
    settings = training_settings(params, context.runtime, seed, label, drop_last=params.drop_last is not False)
    with context.scratch([transform.to_meta(), meta, *images.digests()]) as scratch:
        outcome = train_network(
            model,
            objective,
            images.open(images.split.train, transform),
            None,
            FixedOrder(sampler) if params.fixed_order else sampler,
            settings,
            context.device,
            scratch.folder,
        )
        save_backbone(PRETRAINED, model.backbone, meta | {"split_digest": images.split_digest})
        write_csv(CURVES / "pretrain.tsv", training_curves(outcome.history), sep="\t")
        scratch.clear()
    return outcome.computed
