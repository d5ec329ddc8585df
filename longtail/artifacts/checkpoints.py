"""Checkpoints: named tensors and JSON metadata in one safetensors file, with a digest of both.

The metadata of the file has one entry, ``longtail``: the SHA-256 of the content, a blank, and the metadata as JSON
text. The digest covers the JSON text and the name, dtype, shape and bytes of every tensor. A reader recomputes it, so a
changed file is never used. One entry, because safetensors does not sort the entries of its metadata.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.artifacts.atomic import atomic_path
from longtail.artifacts.left_out import refuse_left_out
from longtail.core.errors import ArtifactError

if TYPE_CHECKING:
    import torch

ENTRY = "longtail"


def save_checkpoint(path: str | Path, tensors: Mapping[str, "torch.Tensor"], meta: Mapping[str, Any]) -> str:
    """Write tensors and ``meta``, which must fit in JSON, atomically. Equal content gives equal bytes.

    Tensors of any device and memory layout are allowed. Tensors that share memory are stored separately.

    Returns:
        The digest of the content, in hex.
    """
    from safetensors.torch import save_file

    stored, used = {}, set()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        memory = tensor.untyped_storage().data_ptr()
        stored[name] = tensor.clone() if memory in used else tensor  # safetensors refuses shared memory
        used.add(memory)
    text = json.dumps(dict(meta), sort_keys=True)
    digest = _digest(text, stored)
    with atomic_path(path) as partial:
        save_file(stored, partial, {ENTRY: f"{digest} {text}"})
    return digest


def load_checkpoint(
    path: str | Path, made_by: str | None = None
) -> tuple[dict[str, "torch.Tensor"], dict[str, Any], str]:
    """Read a checkpoint and check its digest.

    Args:
        path: the file; any suffix.
        made_by: the stage that makes the file, for the error.

    Returns:
        ``(tensors on the CPU, by name in sorted order; meta; digest)``.

    Raises:
        ArtifactError: the file is missing, truncated or changed, or :func:`save_checkpoint` did not write it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise ArtifactError(path, "is missing", made_by, missing=True)
    try:
        with safe_open(path, framework="pt") as file:
            entry = (file.metadata() or {}).get(ENTRY)
            tensors = {name: _copy(file.get_tensor(name)) for name in sorted(file.keys())}
    except (SafetensorError, OSError) as error:
        refuse_left_out(path, made_by)
        raise ArtifactError(path, f"is damaged or is not a checkpoint ({error})", made_by) from error
    if entry is None:
        raise ArtifactError(path, "was not written by longtail (its metadata has no digest)", made_by)
    digest, _, text = entry.partition(" ")
    if digest != _digest(text, tensors):
        raise ArtifactError(path, "is damaged (its content does not match its digest)", made_by)
    return tensors, json.loads(text), digest


def read_meta(path: str | Path) -> dict[str, Any]:
    """The ``meta`` of a checkpoint, as its header has it; empty if the file is missing or is no checkpoint.

    It reads no tensors and needs no torch, so it cannot check the digest.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return recorded_meta(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def recorded_meta(metadata: Mapping[str, str]) -> dict[str, Any]:
    """The ``meta`` in the metadata of a safetensors file; empty if :func:`save_checkpoint` did not write it."""
    text = metadata.get(ENTRY, "").partition(" ")[2]
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _copy(tensor: "torch.Tensor") -> "torch.Tensor":
    """A copy of all bytes. The given tensor is mapped memory, which another process could change after the check.

    The bytes are copied as such, because torch would turn a damaged boolean into a valid one.
    """
    return _as_bytes(tensor).clone().view(tensor.dtype).reshape(tensor.shape)


def _as_bytes(tensor: "torch.Tensor") -> "torch.Tensor":
    import torch

    return tensor.reshape(-1).view(torch.uint8)


def _digest(text: str, tensors: Mapping[str, "torch.Tensor"]) -> str:
    """SHA-256, in hex, of ``text`` and of contiguous CPU tensors in the order of the mapping."""
    digest = hashlib.sha256(text.encode())
    for name, tensor in tensors.items():
        digest.update(f"\n{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(_as_bytes(tensor).numpy().data)
    return digest.hexdigest()
