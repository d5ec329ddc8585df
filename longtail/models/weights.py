"""Pretrained weights into a backbone: those of a file, or those that timm publishes for its model."""

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from longtail.artifacts.checkpoints import recorded_meta
from longtail.artifacts.digest import file_digest
from longtail.augment.transforms import InputConfig
from longtail.core.errors import ConfigError
from longtail.core.head import LinearHead
from longtail.models.key_names import Matched, collect, find_classifier, match, without_prefix
from longtail.models.timm_models import classifier_names, read_published
from longtail.models.weight_files import KEY, read_file

LOG = logging.getLogger(__name__)
SHOWN = 3  # names that messages and metadata list
COSINE_SCALE = 30.0  # of LDAM-DRW's cosine head, which keeps its scale in the loss


@dataclass(frozen=True)
class Loaded:
    """What was loaded into a backbone.

    Attributes:
        report: as JSON: ``source`` (name of the file, or the repository of the hub), ``sha256`` (None if unknown),
            ``loaded`` (number of tensors), ``needed`` (number of tensors of the backbone, without the counters of batch
            norm), ``left_out`` (for each reason, how many entries and the first names), ``initial`` (how many of the
            needed tensors kept their initial values, and the first names), ``head`` (name of the classifier that was
            taken, or None), ``license`` and ``trained_on``.
        head: the classifier, if it was asked for.
    """

    report: dict[str, Any]
    head: LinearHead | None = None

    def lines(self) -> list[str]:
        """The report in a few lines for people."""
        report = self.report
        lines = [f"weights of {report['source']}: {report['loaded']} tensors loaded"]
        needed, lacking = report["needed"], report["initial"]["count"]
        if 2 * lacking > needed:
            lines.append(f"  WARNING: only {needed - lacking} of {needed} tensors fit; is this file of another model?")
        for kind, found in report["left_out"].items():
            lines.append(f"  left out, {kind}: {_count(found)}")
        if report["initial"]["count"]:
            lines.append(f"  NOT in the file, so at their initial values: {_count(report['initial'])}")
        if report["head"]:
            lines.append(f"  head: {report['head']}")
        lines.append(f"  trained on: {report['trained_on']}; license: {report['license']}")
        return lines


def load_file(backbone: nn.Module, path: Path, head_shape: tuple[int, int] | None = None) -> Loaded:
    """Load a file into a backbone, in place, in the backbone's dtype.

    Args:
        backbone: as ``create_backbone`` makes it.
        path: ``.safetensors``, or what ``torch.save`` wrote.
        head_shape: (C, D), to take the classifier of the file too; None to leave it out.

    Raises:
        ConfigError: the file cannot be read or holds anything but data, no tensor of it fits, a shape does not fit, or
            it has no classifier of that shape.
    """
    content, metadata = read_file(path)
    tensors, beside = collect(content)
    found = _fit(backbone, tensors, path.name)
    own = recorded_meta(metadata)
    names: tuple[str, ...] = ()
    head = None
    if head_shape is not None:
        config = getattr(backbone, "pretrained_cfg", None) or {}
        names, head = _head(tensors, found, head_shape, path.name, classifier_names(config.get("classifier")), own)
    unknown = f"unknown (given file {path.name})"
    report = _report(backbone, found, found.left_out | beside, names)
    known = own.get("weights") or {}
    report |= {
        "source": path.name,
        "sha256": file_digest(path),
        "license": metadata.get("license") or known.get("license") or unknown,
        "trained_on": metadata.get("trained_on") or metadata.get("dataset") or known.get("trained_on") or unknown,
    }
    return Loaded(report, head)


def load_published(
    backbone: nn.Module, *, name: str, channels: int, image_size: int, head_shape: tuple[int, int] | None = None
) -> Loaded:
    """Load the weights that timm publishes for its model ``name``, from the hub's cache or its server.

    Args:
        backbone, name, channels, image_size: as ``create_backbone`` made it.
        head_shape: as in :func:`load_file`.

    Raises:
        ConfigError: there are no published weights, they cannot be had without a network, or their classifier has
            another shape.
    """
    given = read_published(name, channels, image_size, with_classifier=head_shape is not None)
    found = _fit(backbone, given.tensors, given.source)
    names: tuple[str, ...] = ()
    head = None
    if head_shape is not None:
        names, head = _head(given.tensors, found, head_shape, given.source, given.classifiers, {})
    report = _report(backbone, found, found.left_out, names)
    report |= {
        "source": given.source,
        "sha256": given.sha256,
        "license": given.license,
        "trained_on": given.trained_on,
    }
    return Loaded(report, head)


def input_config(backbone: nn.Module, channels: int, image_size: int | None) -> InputConfig | None:
    """What a timm model expects of its images; None for our own networks, which say nothing.

    Args:
        backbone: as ``create_backbone`` makes it. The tag in its name decides, or timm's default.
        channels: 1 takes the mean of the colors.
        image_size: side in pixels, or None for the model's own.
    """
    config: Mapping[str, Any] | None = getattr(backbone, "pretrained_cfg", None)
    if not config or "input_size" not in config:
        return None
    mean, std = (tuple(map(float, config[key])) for key in ("mean", "std"))
    if channels == 1:
        mean, std = ((sum(values) / len(values),) for values in (mean, std))
    interpolation = str(config.get("interpolation") or "bilinear")
    return InputConfig(
        image_size=image_size or int(config["input_size"][-1]),
        mean=mean,
        std=std,
        interpolation=interpolation if interpolation == "bilinear" else "bicubic",
        crop_pct=None if config.get("crop_mode") == "squash" else float(config.get("crop_pct") or 1.0),
    )


def _fit(backbone: nn.Module, tensors: Mapping[str, Tensor], source: str) -> Matched:
    """Load what matches. timm's own conversion of the model is tried where names or shapes do not."""
    state = backbone.state_dict()
    found = match(tensors, state)
    wrong = _adapt(found, state)
    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is not None and (wrong or _missing(found, state)):
        converted = _converted(convert, backbone, without_prefix(tensors, found.prefix))
        if converted is not None:
            other = match(converted, state)
            still_wrong = _adapt(other, state)
            if (len(still_wrong), -len(other.tensors)) < (len(wrong), -len(found.tensors)):
                other.left_out = _left_out_of_file(tensors, found, other)
                found, wrong = other, still_wrong
    if not found.tensors:
        ours, theirs = _shapes(state, state), _shapes(tensors, tensors)
        raise ConfigError(
            f"{KEY} must hold weights of train.backbone, but no name in {source} fits: the backbone has {ours}; the "
            f"file has {theirs or 'no tensors'}"
        )
    if wrong:
        ours = _shapes(state, wrong)
        theirs = _shapes({found.origins[name]: found.tensors[name] for name in wrong}, map(found.origins.get, wrong))  # type: ignore[arg-type]
        raise ConfigError(
            f"{KEY} must hold tensors of the shapes of train.backbone, but {len(wrong)} of {source} have others: the "
            f"backbone has {ours}; the file has {theirs}"
        )
    loaded = {name: tensor.detach().to(state[name].dtype) for name, tensor in found.tensors.items()}
    backbone.load_state_dict(state | loaded)
    return found


def _left_out_of_file(tensors: Mapping[str, Tensor], found: Matched, converted: Matched) -> dict[str, str]:
    """What a conversion left out, by the names of the file, which are not those of the conversion."""
    used = {id(tensor) for tensor in converted.tensors.values()}
    return {
        name: kind
        for name, kind in found.left_out.items()
        if id(tensors[name]) not in used and (kind != "unknown" or name in converted.left_out)
    }


def _adapt(found: Matched, state: Mapping[str, Tensor]) -> list[str]:
    """Names whose shapes differ, after kernels for colors were summed up for grayscale images."""
    for name, tensor in found.tensors.items():
        wanted = state[name].shape
        if tensor.ndim == len(wanted) == 4 and (tensor.shape[1], wanted[1]) == (3, 1):
            found.tensors[name] = tensor.float().sum(dim=1, keepdim=True)
    return [name for name, tensor in found.tensors.items() if tensor.shape != state[name].shape]


def _converted(convert: Any, backbone: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
    try:
        made = convert(tensors, backbone)
    except Exception as error:  # noqa: BLE001 - a filter is written for a few files and fails on others in any way
        LOG.debug(f"timm's conversion failed: {error}")
        return None
    return {str(name): tensor for name, tensor in made.items() if isinstance(tensor, Tensor)}


def _needed(state: Mapping[str, Tensor]) -> list[str]:
    """All tensors of the backbone but the counters of batch norm, which have no effect."""
    return [name for name in state if not name.endswith("num_batches_tracked")]


def _missing(found: Matched, state: Mapping[str, Tensor]) -> list[str]:
    """The needed tensors that the file lacks."""
    return [name for name in _needed(state) if name not in found.tensors]


def _head(
    tensors: Mapping[str, Tensor],
    found: Matched,
    shape: tuple[int, int],
    source: str,
    names: Iterable[str],
    own: Mapping[str, Any],
) -> tuple[tuple[str, ...], LinearHead]:
    """Names of the tensors of the classifier, and the head that they make."""
    classifier = find_classifier(tensors, found, names)
    needed = f"{shape} (classes, features)"
    if classifier is None:
        raise ConfigError(
            f"pretrain.head must be none, since {source} has no classifier, which must be {needed}, got file"
        )
    names = classifier.names
    weight, bias, scales = (
        None if part is None else part.detach().float().numpy().copy()
        for part in (classifier.weight, classifier.bias, classifier.scales)
    )
    assert weight is not None
    if weight.shape == shape:
        if scales is not None:
            weight, bias = scales[:, None] * weight, None if bias is None else scales * bias
        kind, scale = str(own.get("head_kind", "linear")), float(own.get("head_scale", 1.0))
        return names, LinearHead(weight, bias, kind, scale)
    if weight.shape == shape[::-1] and bias is None:  # the layer of LDAM-DRW: columns of any length, no bias
        return names, LinearHead(np.ascontiguousarray(weight.T), None, "cosine", COSINE_SCALE)
    raise ConfigError(
        f"pretrain.head must be none, since the classifier {names[0]} of {source} has the shape {weight.shape} and "
        f"the dataset and train.backbone need {needed}, got file"
    )


def _report(
    backbone: nn.Module, found: Matched, left_out: Mapping[str, str], head: tuple[str, ...] = ()
) -> dict[str, Any]:
    state = backbone.state_dict()
    beside = {name: kind for name, kind in left_out.items() if name not in head}
    kinds = Counter(beside.values())
    return {
        "loaded": len(found.tensors),
        "needed": len(_needed(state)),
        "left_out": {kind: _first([name for name, other in beside.items() if other == kind]) for kind in sorted(kinds)},
        "initial": _first(_missing(found, state)),
        "head": head[0] if head else None,
    }


def _first(names: list[str]) -> dict[str, Any]:
    return {"count": len(names), "first": names[:SHOWN]}


def _count(found: Mapping[str, Any]) -> str:
    names = ", ".join(found["first"])
    return f"{found['count']} ({names}{', ...' if found['count'] > len(found['first']) else ''})"


def _shapes(tensors: Mapping[str, Tensor], names: Iterable[str]) -> str:
    return ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in list(names)[:SHOWN])
