"""Backbones on disk: the weights, and what is needed to build the module that they fit."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.core.errors import ArtifactError
from longtail.models.factory import create_backbone


def save_backbone(path: Path, backbone: nn.Module, meta: dict[str, Any], head: dict[str, Tensor] | None = None) -> str:
    """Write a backbone, and a head's ``weight`` and perhaps ``bias``.

    Args:
        meta: ``name``, ``width`` (or None) and ``channels``, which rebuild the module, and anything else.
    """
    tensors = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    tensors |= {f"head.{name}": tensor for name, tensor in (head or {}).items()}
    return save_checkpoint(path, tensors, meta)


def load_backbone(path: Path, made_by: str) -> tuple[nn.Module, dict[str, Tensor], dict[str, Any], str]:
    """Returns ``(backbone, head tensors, meta, digest)``; every tensor of the module must be in the file and fit.

    Raises:
        ArtifactError: a damaged file, or weights that do not fit the recorded architecture.
    """
    tensors, meta, digest = load_checkpoint(path, made_by)
    if not {"name", "channels", "width"} <= meta.keys():
        raise ArtifactError(f"{path} holds no backbone; make it again with `dvc repro -f {made_by}`")
    backbone = create_backbone(meta["name"], in_channels=meta["channels"], width=meta["width"])
    weights = {name.removeprefix("backbone."): t for name, t in tensors.items() if name.startswith("backbone.")}
    try:
        backbone.load_state_dict(weights)
    except RuntimeError as error:
        raise ArtifactError(f"{path} does not fit {meta['name']}: {' '.join(str(error).split())}") from error
    head = {name.removeprefix("head."): t for name, t in tensors.items() if name.startswith("head.")}
    return backbone, head, meta, digest
