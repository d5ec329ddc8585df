"""Files that are either complete or absent: write beside the target, flush, rename."""

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a path beside ``target``. On a normal exit that file is flushed to disk and renamed to ``target``.

    On an error the partial file is removed and ``target`` keeps its old content. A process that is killed may leave
    its partial file ``.NAME.PID.partial``. The next write of the same target removes it.
    """
    target = Path(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove_orphans(target)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    _fsync_folder(target.parent)


@contextmanager
def atomic_open(target: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open ``target`` for an atomic write, as text (UTF-8, LF line ends) or binary (``mode="wb"``)."""
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "\n")
    with atomic_path(target) as partial, open(partial, mode, encoding=encoding, newline=newline) as file:
        yield file


def _remove_orphans(target: Path) -> None:
    """Remove the partial files of processes that have ended; a running one may still be writing its own."""
    for orphan in target.parent.glob(f".{glob.escape(target.name)}.*.partial"):
        writer = orphan.name.rsplit(".", 2)[1]
        try:
            os.kill(int(writer), 0)
        except ProcessLookupError:
            orphan.unlink(missing_ok=True)
        except (PermissionError, ValueError):
            continue


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
