"""Finetune the backbone on a subset drawn by IP-DPP, and on a uniform one: model, subsets, both prediction tables."""

import copy
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from longtail.artifacts.digest import Scalar, file_digest
from longtail.artifacts.feature_set import FeatureSet
from longtail.artifacts.predictions import build_predictions, write_predictions
from longtail.artifacts.tables import write_csv
from longtail.augment.transforms import Transform, resolve_policy
from longtail.core.errors import ArtifactError
from longtail.core.seeds import derive_seed
from longtail.evaluation.picture_grid import GridRow, choose, picture_grid
from longtail.methods.ipdpp.finetuning import SubsetSampler, label_log_probability
from longtail.methods.ipdpp.params import IpdppParams
from longtail.methods.ipdpp.selection_file import SUBSET_COLUMNS, SelectionFile, subset_table, write_selection
from longtail.methods.objectives.ce.objective import CrossEntropy
from longtail.models.classifier import Classifier, LinearLayer
from longtail.models.stored import load_backbone, save_backbone
from longtail.train.batches import FeatureRows, ImageSet
from longtail.train.extract import outputs
from longtail.train.loop import Outcome
from longtail.train.network import train_network, training_curves
from longtail.train.objective import TaskInfo
from stages.context import Context, run
from stages.data import PreparedImages
from stages.features import read_feature_set
from stages.left_out import CURVE, leave_out, without_images
from stages.paths import BACKBONE, CURVES, IPDPP_IMAGES, IPDPP_MODEL, IPDPP_SELECTION, IPDPP_SUBSET, PREDICTIONS
from stages.training import require_val, training_settings

METHOD, CONTROL = "ipdpp", "ipdpp_uniform"
GRID_CLASSES, GRID_IMAGES = 10, 6


@dataclass(frozen=True)
class Parts:
    """What the network is trained on and measured on: images, or with a frozen encoder their features.

    ``plain`` are the training images without augmentation.
    """

    train: ImageSet
    plain: ImageSet
    val: ImageSet | None
    test: ImageSet


@dataclass(frozen=True)
class Finetuned:
    """A finished run."""

    model: Classifier
    outcome: Outcome
    sampler: SubsetSampler
    test_scores: np.ndarray


def main() -> None:
    context = Context("finetune_ipdpp")
    params = context.group(IpdppParams)
    if reason := without_images() if params.enabled else "ipdpp.enabled: false":
        outputs = [IPDPP_MODEL, IPDPP_SELECTION, *(PREDICTIONS / f"{name}.h5" for name in (CONTROL, METHOD))]
        tables = {IPDPP_SUBSET: SUBSET_COLUMNS, CURVES / "finetune_ipdpp.tsv": (*CURVE, "method")}
        leave_out(context, reason, outputs, tables)
        picture_grid(IPDPP_IMAGES, [], f"left out: {reason}")
        return
    device = context.device
    found = read_feature_set()
    images = PreparedImages(context)
    split = images.split
    backbone, _, meta, backbone_digest = load_backbone(BACKBONE, "train_backbone")
    if (images.split_digest, backbone_digest) != (found.train.split_digest, found.train.backbone_digest):
        raise ArtifactError(found.folder, "holds features of another split or backbone", "extract_features")
    require_val(params, split.val)
    policy = resolve_policy(images.info, params.augment, "ipdpp.augment")
    transform = Transform.from_meta(meta["transform"]).with_policy(policy, params.jitter_strength)
    if params.freeze == "encoder":
        parts = _feature_parts(found, device)
    else:
        plain = images.open(split.train, transform)
        val = images.open(split.val, transform) if len(split.val) else None
        parts = Parts(plain, plain, val, images.open(split.test, transform))
    for row in _largest_classes(found):  # fail before training if a file is missing, even when training needs no files
        images.picture(found.train.index[row[0]])
    inputs = [*map(file_digest, found.files), transform.to_meta(), *images.digests()]
    with context.scratch(inputs) as scratch:
        finished = {
            name: finetune(name, context, params, found, parts, copy.deepcopy(backbone), scratch.folder)
            for name in (METHOD, CONTROL)
        }
        _write_pictures(images, found, finished[METHOD].sampler)
        write(params, found, finished, backbone, meta | {"transform": transform.to_meta()})
        scratch.clear()
    context.write_cost()


def finetune(
    name: str,
    context: Context,
    params: IpdppParams,
    found: FeatureSet,
    parts: Parts,
    backbone: nn.Module,
    scratch: Path,
) -> Finetuned:
    """One of the two runs. Both have the same initial head, sizes and random streams; only the draws differ."""
    labels, num_classes = found.train.labels, found.train.num_classes
    progress, device = context.runtime.progress, context.device
    seed = derive_seed(context.seed, "finetune_ipdpp")
    torch.manual_seed(derive_seed(seed, "initialise"))
    head = LinearLayer(found.train.features.shape[1], num_classes)
    encoder = nn.Identity() if params.freeze == "encoder" else backbone
    task = TaskInfo(num_classes, found.train_counts, found.train.features.shape[1], params.epochs, seed)
    own_head = found.head

    @cache
    def first() -> np.ndarray:
        return label_log_probability(own_head.scores(found.train.features), labels)

    def log_probability(model: Classifier, number: int) -> np.ndarray:
        if params.p_source == "head" or (params.p_source == "auto" and number == 0):
            return first()
        scores = outputs(model, parts.plain, num_classes, f"{name}: p of round {number}", progress)
        return label_log_probability(scores, labels)

    sampler = SubsetSampler(
        labels,
        params.k,
        every=params.reselect_every,
        seed=derive_seed(seed, "subset"),
        log_probability=None if name == CONTROL else log_probability,
        options=_draw_options(params, found.train.features),
    )
    model = Classifier(encoder, head)
    further = {
        "drop_last": params.drop_last is True,
        "bn_mode": params.bn_mode,
        "select": params.select,
        "part": name,
    }
    settings = training_settings(params, context.runtime, seed, name, **further)
    if params.freeze == "encoder":
        settings = replace(settings, compile=False)
    outcome = train_network(model, CrossEntropy(task), parts.train, parts.val, sampler, settings, device, scratch)
    scores = outputs(model, parts.test, num_classes, f"{name} on test", progress)
    return Finetuned(model, outcome, sampler, scores)


def write(
    params: IpdppParams, found: FeatureSet, finished: dict[str, Finetuned], backbone: nn.Module, meta: dict
) -> None:
    """All outputs of the stage but the pictures."""
    test, main_run = found.test, finished[METHOD]
    for name, done in finished.items():
        predictions = build_predictions(
            name,
            done.test_scores,
            test.labels,
            test.index,
            likelihood=True,
            selected_on_test=False,
            split_digest=test.split_digest,
            train_counts=found.train_counts,
        )
        write_predictions(PREDICTIONS / f"{name}.h5", predictions)
    encoder = backbone if params.freeze == "encoder" else main_run.model.backbone
    chosen = {"select": params.select, "chosen_epoch": main_run.outcome.chosen_epoch}
    head = main_run.model.head.export()  # type: ignore[operator]
    save_backbone(IPDPP_MODEL, encoder, meta | chosen, head)
    selection = selection_file(params, found, finished)
    write_selection(IPDPP_SELECTION, selection)
    write_csv(IPDPP_SUBSET, subset_table(selection))
    tables = [training_curves(finished[name].outcome.history).assign(method=name) for name in (CONTROL, METHOD)]
    write_csv(CURVES / "finetune_ipdpp.tsv", pd.concat(tables, ignore_index=True), sep="\t")
    print(f"ipdpp: {main_run.sampler.available} of {len(found.train.labels)} images, {len(selection.epochs)} rounds")


def selection_file(params: IpdppParams, found: FeatureSet, finished: dict[str, Finetuned]) -> SelectionFile:
    """What was drawn in each round, and what was chosen."""
    rounds, control = finished[METHOD].sampler.rounds, finished[CONTROL].sampler.rounds
    chosen: dict[str, dict[str, Scalar]] = {}
    for name, done in finished.items():
        chosen[name] = {"epoch": done.outcome.chosen_epoch, "select": params.select}
        if params.select == "best_val":
            chosen[name]["selected_on"] = "val"
    notes = {"images": finished[METHOD].sampler.available, "rounds": len(rounds)} | chosen[METHOD]
    notes |= {"sampler": params.sampler, "freeze": params.freeze}
    if params.sampler == "ipdpp":
        notes["scale"] = params.scale
    return SelectionFile(
        split_digest=found.train.split_digest,
        train_counts=found.train_counts,
        index=found.train.index,
        label=found.train.labels,
        epochs=np.arange(len(rounds)) * params.reselect_every,
        log_probability=np.stack([np.asarray(one.log_probability) for one in rounds]),
        inclusion_probability=np.stack([one.inclusion_probability for one in rounds]),
        selected=np.stack([one.selected for one in rounds]),
        control=np.stack([one.selected for one in control]),
        notes=notes,
        control_notes=chosen[CONTROL],
    )


def _feature_parts(found: FeatureSet, device: torch.device) -> Parts:
    train, test = (FeatureRows(part.features, part.labels, device) for part in (found.train, found.test))
    val = found.val
    return Parts(train, train, FeatureRows(val.features, val.labels, device) if len(val.labels) else None, test)


def _draw_options(config: IpdppParams, features: np.ndarray) -> dict:
    options: dict = {"sampler": config.sampler, "scale": config.scale}
    if config.sampler == "feature_kdpp":
        options |= {"features": features, "beta": config.beta, "epsilon": config.epsilon, "ridge": config.ridge}
    return options


def _write_pictures(images: PreparedImages, found: FeatureSet, sampler: SubsetSampler) -> None:
    """Images of the last round: of the largest classes, some that were drawn and some that were not, by p."""
    last = sampler.rounds[-1]
    probability = np.exp(np.asarray(last.log_probability))
    rows = []
    for members in _largest_classes(found):
        drawn, left = members[last.selected[members]], members[~last.selected[members]]
        blocks = [
            [(images.picture(found.train.index[i]), float(probability[i])) for i in some]
            for some in choose(drawn, left, probability, GRID_IMAGES)
        ]
        name = images.manifest.class_names[found.train.labels[members[0]]]
        rows.append(GridRow(f"{name} ({len(drawn)} of {len(members)})", *blocks))
    picture_grid(IPDPP_IMAGES, rows, "last round of IP-DPP; below each image the probability of its own label")


def _largest_classes(found: FeatureSet) -> list[np.ndarray]:
    """The training rows of each of the classes that the picture shows."""
    largest = np.argsort(-found.train_counts, kind="stable")[:GRID_CLASSES]
    return [np.flatnonzero(found.train.labels == c) for c in largest]


if __name__ == "__main__":
    run(main)
