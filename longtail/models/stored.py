"""Backbones on disk: the weights, what is needed to build their module, and perhaps a head."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.core.errors import ArtifactError, DataError
from longtail.core.head import LinearHead
from longtail.models.factory import create_backbone

_HEAD_META = ("head_kind", "head_scale")


def save_backbone(path: Path, backbone: nn.Module, meta: dict[str, Any], head: LinearHead | None = None) -> str:
    """Write a backbone and, if given, a head.

    Args:
        path: the target file; any suffix.
        backbone: its whole state is written.
        meta: ``name``, ``width`` (or None), ``channels`` and perhaps ``image_size``, from which the module is built,
            and anything else that fits in JSON.
        head: stored in the dtype of its arrays.

    Returns:
        The digest of the content.
    """
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    if head is not None:
        tensors["head.weight"] = torch.from_numpy(head.weight)
        if head.bias is not None:
            tensors["head.bias"] = torch.from_numpy(head.bias)
        meta = meta | dict(zip(_HEAD_META, (head.kind, head.scale), strict=True))
    return save_checkpoint(path, tensors, meta)


def load_backbone(path: Path, made_by: str) -> tuple[nn.Module, LinearHead | None, dict[str, Any], str]:
    """Returns ``(backbone, head or None, meta, digest)``.

    Raises:
        ArtifactError: the file is missing or damaged, or its tensors are not exactly those of the recorded module.
    """
    tensors, meta, digest = load_checkpoint(path, made_by)
    if not {"name", "channels", "width"} <= meta.keys():
        raise ArtifactError(path, "holds no backbone", made_by)
    backbone = create_backbone(
        meta["name"], in_channels=meta["channels"], width=meta["width"], image_size=meta.get("image_size")
    )
    weights = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(path, f"does not fit {describe_backbone(meta)}: {reason}", made_by) from error
    kind, scale = (meta.pop(name, None) for name in _HEAD_META)
    if "head.weight" not in tensors:
        return backbone, None, meta, digest
    bias = tensors["head.bias"].numpy() if "head.bias" in tensors else None
    try:
        head = LinearHead(tensors["head.weight"].numpy(), bias, str(kind), float(scale))
    except (DataError, TypeError) as error:
        raise ArtifactError(path, f"holds no usable head: {error}", made_by) from error
    return backbone, head, meta, digest


def describe_backbone(meta: dict[str, Any]) -> str:
    """Name, width and channels in words, so that two widths of one network read differently."""
    width = "auto" if meta["width"] is None else meta["width"]
    return f"{meta['name']} (width {width}, {meta['channels']} channels)"
