"""Folders for unfinished work: locked by one process, and found again only by a run that computes the same thing."""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from longtail.core.errors import ArtifactError


class Scratch:
    """The scratch folder of one stage, held by one process at a time.

    Args:
        folder: the stage's scratch folder; git-ignored.
        identity: everything that the result depends on, as values that fit in JSON. Each identity has its own folder.

    Raises:
        ArtifactError: on entry, if another process holds the folder. Killing the parent of a stage leaves it running.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._base = folder
        text = json.dumps(dict(identity), sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]

    def __enter__(self) -> Self:
        self._base.mkdir(parents=True, exist_ok=True)
        self._lock = open(self._base / "lock", "a+")
        try:
            # Unlike flock, a record lock is not inherited by loader workers, which may outlive a killed parent.
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            problem = f"is in use by process {holder}, which is still running this stage; wait for it or stop it"
            raise ArtifactError(self._base, problem) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        self.folder.mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.close()

    def clear(self) -> None:
        """Remove this work after its outputs are written; the work of other identities stays."""
        shutil.rmtree(self.folder)
