"""Torch checkpoints that are verified before a byte of them is unpickled.

A checkpoint is what ``torch.save`` writes, a zip archive, with the SHA-256 of all that precedes it as the archive's
comment. ``torch.load`` reads it as any other; :func:`load_checkpoint` checks the digest first, so a truncated or
altered file never reaches the unpickler.
"""

import hashlib
import io
import json
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.artifacts.atomic import atomic_open
from longtail.core.errors import ArtifactError

if TYPE_CHECKING:
    import torch

_MARK = b"longtail-sha256:"
_COMMENT_LENGTH = len(_MARK) + 64
_END_RECORD = b"PK\x05\x06"
_END_RECORD_LENGTH = 22


def save_checkpoint(path: str | Path, tensors: Mapping[str, "torch.Tensor"], meta: Mapping[str, Any]) -> str:
    """Write tensors by name and JSON-able ``meta`` atomically; equal content gives equal bytes.

    Tensors are detached, moved to the CPU and made contiguous. Returns the digest in hex.
    """
    import torch

    state = {
        name: tensors[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in sorted(tensors)
    }
    # One JSON string, not nested objects: pickle encodes object identity, which a resumed run does not share.
    buffer = io.BytesIO()
    torch.save({"meta": json.dumps(dict(meta), sort_keys=True), "tensors": state}, buffer)
    archive = buffer.getvalue()
    end = len(archive) - _END_RECORD_LENGTH
    assert archive[end : end + 4] == _END_RECORD, "torch.save wrote an archive with a comment"
    body = archive[:-2] + struct.pack("<H", _COMMENT_LENGTH)
    digest = hashlib.sha256(body).hexdigest()
    with atomic_open(path, "wb") as file:
        file.write(body + _MARK + digest.encode())
    return digest


def load_checkpoint(path: str | Path, made_by: str) -> tuple[dict[str, "torch.Tensor"], dict[str, Any], str]:
    """Read ``(tensors on the CPU, meta, digest)``.

    Raises:
        ArtifactError: missing, truncated, altered, a pickle, or not written by :func:`save_checkpoint`.
    """
    path = Path(path)
    if not path.is_file():
        raise ArtifactError(f"{path} is missing: make it with `dvc repro {made_by}`")
    content = path.read_bytes()
    remedy = f"make it again with `dvc repro -f {made_by}`"
    if not content.startswith(b"PK\x03\x04"):
        raise ArtifactError(f"{path} is not a checkpoint of this project (bare pickles are never loaded); {remedy}")
    body, comment = content[:-_COMMENT_LENGTH], content[-_COMMENT_LENGTH:]
    if not comment.startswith(_MARK):
        raise ArtifactError(f"{path} is truncated, or was not written by this project; {remedy}")
    digest = hashlib.sha256(body).hexdigest()
    if comment[len(_MARK) :] != digest.encode():
        raise ArtifactError(f"{path} is damaged (its content does not match its digest); {remedy}")
    import torch

    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ArtifactError(f"{path} holds more than tensors and is not loaded; {remedy}") from error
    return state["tensors"], json.loads(state["meta"]), digest
