"""What a stage writes in place of an output that does not apply, so that every declared output exists.

The file is JSON text under the output's own name: a schema, the reason, and a digest of the reason. Readers of
checkpoints and HDF5 files refuse it with that reason.
"""

import hashlib
import json
from pathlib import Path

from longtail.artifacts.atomic import atomic_open
from longtail.core.errors import ArtifactError

SCHEMA = "longtail/left_out/1"
LARGEST = 4096  # bytes


def write_left_out(path: str | Path, reason: str) -> None:
    """Write the file atomically. ``reason``: why there is no output, as ``key: value`` to blame and perhaps more."""
    content = {"schema": SCHEMA, "reason": reason, "digest": _digest(reason)}
    with atomic_open(path) as file:
        file.write(json.dumps(content, sort_keys=True) + "\n")


def left_out_reason(path: str | Path, made_by: str | None = None) -> str | None:
    """Why the output is left out, or None for a file of another kind and for no file.

    Raises:
        ArtifactError: the file was written by :func:`write_left_out` and has been changed since; ``maker`` is
            ``made_by``.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size > LARGEST:
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        return None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        return None
    reason = content.get("reason")
    if not isinstance(reason, str) or content.get("digest") != _digest(reason):
        raise ArtifactError(path, "is damaged (its content does not match its digest)", made_by)
    return reason


def refuse_left_out(path: str | Path, made_by: str | None) -> None:
    """Refuse a file of :func:`write_left_out` where an output is needed.

    Raises:
        ArtifactError: names the reason; ``maker`` is ``made_by``.
    """
    reason = left_out_reason(path, made_by)
    if reason is not None:
        raise ArtifactError(path, f"is left out ({reason})", made_by)


def _digest(reason: str) -> str:
    return hashlib.sha256(f"{SCHEMA}\n{reason}".encode()).hexdigest()
