"""Finetune the backbone on a subset drawn by IP-DPP, and on a uniform one: model, subsets, both prediction tables."""

import copy
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from longtail.artifacts.digest import Scalar, file_digest
from longtail.artifacts.feature_set import features_file
from longtail.artifacts.predictions import build_predictions, write_predictions
from longtail.artifacts.scratch import Scratch, code_digest
from longtail.artifacts.tables import write_csv, write_json
from longtail.augment.transforms import Transform, resolve_policy
from longtail.core.config import Ipdpp, Params
from longtail.core.errors import ArtifactError, ConfigError
from longtail.core.seeds import derive_seed
from longtail.data.manifest import Manifest, decode, read_manifest, read_pixels, read_verified
from longtail.evaluation.picture_grid import GridRow, choose, picture_grid
from longtail.methods.ipdpp.finetuning import SubsetSampler, label_log_probability
from longtail.methods.ipdpp.selection_file import SelectionFile, subset_table, write_selection
from longtail.methods.objectives.cross_entropy import CrossEntropy
from longtail.models.classifier import Classifier, LinearLayer
from longtail.models.stored import load_backbone, save_backbone
from longtail.train.batches import FeatureRows, ImageSet, open_part
from longtail.train.extract import outputs
from longtail.train.loop import Outcome, curves, train
from longtail.train.objective import Setting
from longtail.train.runtime import describe, peak_memory, set_up
from stages.common import (
    BACKBONE,
    COST,
    IPDPP_CURVES,
    IPDPP_IMAGES,
    IPDPP_MODEL,
    IPDPP_SELECTION,
    IPDPP_SUBSET,
    PREDICTIONS,
    PREPARED,
    SCRATCH,
    params,
    run,
)
from stages.inputs import FeatureSet, read_feature_set
from stages.settings import settings_of
from stages.split_file import prepared_digests, read_split

METHOD, CONTROL = "ipdpp", "ipdpp_uniform"
GRID_CLASSES, GRID_IMAGES = 10, 6


@dataclass(frozen=True)
class Images:
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
    start = time.perf_counter()
    p = params()
    device = set_up(p.runtime)
    found = read_feature_set()
    if found.train.foreign:
        raise ArtifactError(
            features_file(found.folder, "train"), "is foreign, but IP-DPP finetuning needs images", "extract_features"
        )
    manifest = read_manifest(PREPARED)
    split, split_digest = read_split()
    backbone, _, meta, backbone_digest = load_backbone(BACKBONE, "train_backbone")
    if (split_digest, backbone_digest) != (found.train.split_digest, found.train.backbone_digest):
        raise ArtifactError(found.folder, "holds features of another split or backbone", "extract_features")
    if p.ipdpp.select == "best_val" and len(split.val) == 0:
        raise ConfigError("ipdpp.select: best_val given, but the split has no val images; set val_per_class above 0")
    policy = resolve_policy(manifest.info, p.ipdpp.augment, "ipdpp.augment")
    transform = Transform.from_meta(meta["transform"]).with_policy(policy, p.ipdpp.jitter_strength)
    pixels = read_pixels(PREPARED) if manifest.info.storage == "memory" else None

    def images(index: np.ndarray) -> ImageSet:
        return open_part(manifest, PREPARED, p.data_root, index, transform, device, p.runtime.workers, pixels)

    if p.ipdpp.freeze == "encoder":
        parts = _feature_rows(found, device)
    else:
        plain = images(split.train)
        parts = Images(plain, plain, images(split.val) if len(split.val) else None, images(split.test))
    identity = {
        "params": repr((p.seed, p.ipdpp)),
        "inputs": [*map(file_digest, found.files), transform.to_meta(), *prepared_digests()],
        "code": code_digest("longtail", "stages"),
        "runtime": describe(p.runtime, device),
    }
    for row in _of_largest_classes(found):  # files that are gone are an error before training, also where it needs none
        _picture(manifest, p.data_root, found.train.index[row[0]], pixels)
    with Scratch(SCRATCH / "finetune_ipdpp", identity) as scratch:
        finished = {
            name: finetune(name, p, found, parts, copy.deepcopy(backbone), device, scratch.folder)
            for name in (METHOD, CONTROL)
        }
        _write_grid(manifest, p.data_root, found, finished[METHOD].sampler, pixels)
        write(p, found, finished, backbone, meta | {"transform": transform.to_meta()})
        scratch.clear()
    cost = {"seconds": round(time.perf_counter() - start, 3), "peak_memory_bytes": peak_memory(device)}
    write_json(COST / "finetune_ipdpp.json", cost)


def finetune(
    name: str, p: Params, found: FeatureSet, parts: Images, backbone: nn.Module, device: torch.device, scratch: Path
) -> Finetuned:
    """One of the two runs: the same initial head, sizes and random streams, only the draws differ."""
    labels, num_classes = found.train.labels, found.train.num_classes
    seed = derive_seed(p.seed, "finetune_ipdpp")
    torch.manual_seed(derive_seed(seed, "initialise"))
    head = LinearLayer(found.train.features.shape[1], num_classes)
    encoder = nn.Identity() if p.ipdpp.freeze == "encoder" else backbone
    setting = Setting(num_classes, found.train_counts, found.train.features.shape[1], p.ipdpp.epochs, seed)
    assert found.head is not None
    own_head = found.head

    @cache
    def first() -> np.ndarray:
        return label_log_probability(own_head.scores(found.train.features), labels)

    def log_probability(model: Classifier, number: int) -> np.ndarray:
        if p.ipdpp.p_source == "head" or (p.ipdpp.p_source == "auto" and number == 0):
            return first()
        scores = outputs(model, parts.plain, num_classes, f"{name}: p of round {number}", p.runtime.progress)
        return label_log_probability(scores, labels)

    sampler = SubsetSampler(
        labels,
        p.ipdpp.k,
        every=p.ipdpp.reselect_every,
        seed=derive_seed(seed, "subset"),
        log_probability=None if name == CONTROL else log_probability,
        options=_draw_options(p.ipdpp, found.train.features),
    )
    model = Classifier(encoder, head)
    further = {
        "drop_last": p.ipdpp.drop_last is True,
        "bn_mode": p.ipdpp.bn_mode,
        "select": p.ipdpp.select,
        "part": name,
    }
    settings = settings_of(p.ipdpp, p.runtime, seed, name, **further)
    if p.ipdpp.freeze == "encoder":
        settings = replace(settings, compile=False)
    outcome = train(model, CrossEntropy(setting), parts.train, parts.val, sampler, settings, device, scratch)
    scores = outputs(model, parts.test, num_classes, f"{name} on test", p.runtime.progress)
    return Finetuned(model, outcome, sampler, scores)


def write(p: Params, found: FeatureSet, finished: dict[str, Finetuned], backbone: nn.Module, meta: dict) -> None:
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
    encoder = backbone if p.ipdpp.freeze == "encoder" else main_run.model.backbone
    chosen = {"select": p.ipdpp.select, "chosen_epoch": main_run.outcome.chosen_epoch}
    head = main_run.model.head.export()  # type: ignore[operator]
    save_backbone(IPDPP_MODEL, encoder, meta | chosen, head)
    selection = selection_file(p, found, finished)
    write_selection(IPDPP_SELECTION, selection)
    write_csv(IPDPP_SUBSET, subset_table(selection))
    tables = [curves(finished[name].outcome.history).assign(method=name) for name in (CONTROL, METHOD)]
    write_csv(IPDPP_CURVES, pd.concat(tables, ignore_index=True), sep="\t")
    print(f"ipdpp: {main_run.sampler.available} of {len(found.train.labels)} images, {len(selection.epochs)} rounds")


def selection_file(p: Params, found: FeatureSet, finished: dict[str, Finetuned]) -> SelectionFile:
    """What was drawn in each round, and what was chosen."""
    rounds, control = finished[METHOD].sampler.rounds, finished[CONTROL].sampler.rounds
    chosen: dict[str, dict[str, Scalar]] = {}
    for name, done in finished.items():
        chosen[name] = {"epoch": done.outcome.chosen_epoch, "select": p.ipdpp.select}
        if p.ipdpp.select == "best_val":
            chosen[name]["selected_on"] = "val"
    notes = chosen[METHOD] | {"images": finished[METHOD].sampler.available, "rounds": len(rounds)}
    notes |= {"sampler": p.ipdpp.sampler, "freeze": p.ipdpp.freeze}
    if p.ipdpp.sampler == "ipdpp":
        notes["scale"] = p.ipdpp.scale
    return SelectionFile(
        split_digest=found.train.split_digest,
        train_counts=found.train_counts,
        index=found.train.index,
        label=found.train.labels,
        epochs=np.arange(len(rounds)) * p.ipdpp.reselect_every,
        log_probability=np.stack([np.asarray(one.log_probability) for one in rounds]),
        inclusion_probability=np.stack([one.inclusion_probability for one in rounds]),
        selected=np.stack([one.selected for one in rounds]),
        control=np.stack([one.selected for one in control]),
        notes=notes,
        control_notes=chosen[CONTROL],
    )


def _feature_rows(found: FeatureSet, device: torch.device) -> Images:
    train, test = (FeatureRows(part.features, part.labels, device) for part in (found.train, found.test))
    val = found.val
    return Images(
        train, train, FeatureRows(val.features, val.labels, device) if val and len(val.labels) else None, test
    )


def _draw_options(config: Ipdpp, features: np.ndarray) -> dict:
    options: dict = {"sampler": config.sampler, "scale": config.scale}
    if config.sampler == "feature_kdpp":
        options |= {"features": features, "beta": config.beta, "epsilon": config.epsilon, "ridge": config.ridge}
    return options


def _write_grid(
    manifest: Manifest, data_root: str | None, found: FeatureSet, sampler: SubsetSampler, pixels: np.ndarray | None
) -> None:
    """Images of the last round: of the largest classes, some that were drawn and some that were not, by p."""
    last = sampler.rounds[-1]
    probability = np.exp(np.asarray(last.log_probability))
    rows = []
    for members in _of_largest_classes(found):
        drawn, left = members[last.selected[members]], members[~last.selected[members]]
        blocks = [
            [(_picture(manifest, data_root, found.train.index[i], pixels), float(probability[i])) for i in some]
            for some in choose(drawn, left, probability, GRID_IMAGES)
        ]
        name = manifest.class_names[found.train.labels[members[0]]]
        rows.append(GridRow(f"{name} ({len(drawn)} of {len(members)})", *blocks))
    picture_grid(IPDPP_IMAGES, rows, "last round of IP-DPP; below each image the probability of its own label")


def _of_largest_classes(found: FeatureSet) -> list[np.ndarray]:
    """The training rows of each of the classes that the picture shows."""
    largest = np.argsort(-found.train_counts, kind="stable")[:GRID_CLASSES]
    return [np.flatnonzero(found.train.labels == c) for c in largest]


def _picture(manifest: Manifest, data_root: str | None, row: int, pixels: np.ndarray | None) -> np.ndarray:
    """(H, W, channels) uint8 of one image of the dataset."""
    if pixels is not None:
        return pixels[row]
    root, path = Path(str(data_root)), str(manifest.paths[row])
    return np.asarray(decode(read_verified(root, path, str(manifest.sha256[row])), root / path))


if __name__ == "__main__":
    run(main)
