"""Checkpoints of unfinished training, one per part of a run."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.core.errors import ArtifactError

if TYPE_CHECKING:
    import torch

LOG = logging.getLogger(__name__)


class CheckpointStore:
    """One checkpoint per part, in a folder that belongs to one run. Without a folder nothing is kept.

    A finished part is read back instead of computed again. An unfinished one resumes after its last saved epoch. The
    name of a part is the name of its file: lower-case letters, digits, ``_`` and ``-``.

    Args:
        folder: the folder of this run (see ``longtail.artifacts.scratch``), or None.
        every: epochs between checkpoints of a part.
    """

    def __init__(self, folder: Path | None = None, every: int = 1) -> None:
        self._folder, self._every = folder, every

    def load(self, part: str) -> tuple[dict[str, "torch.Tensor"], dict[str, Any]] | None:
        """The tensors (on the CPU) and meta data of ``part``, or None if there are none that can be read."""
        path = self._path(part)
        if path is None or not path.is_file():
            return None
        try:
            tensors, meta, _ = load_checkpoint(path)
        except ArtifactError as error:
            LOG.info(f"starting over: checkpoint {path} cannot be read ({error.problem})")
            return None
        return tensors, meta

    def save(self, part: str, tensors: Mapping[str, "torch.Tensor"], meta: Mapping[str, Any]) -> None:
        """Keep the state of ``part``."""
        path = self._path(part)
        if path is not None:
            save_checkpoint(path, tensors, meta)

    def is_due(self, epoch: int, last: bool) -> bool:
        """Whether to save after this 1-based epoch; always after the last one."""
        return self._folder is not None and (last or epoch % self._every == 0)

    def _path(self, part: str) -> Path | None:
        assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", part), f"{part!r} is not the name of a part"
        return None if self._folder is None else self._folder / f"{part}.safetensors"


def add_prefix(prefix: str, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The tensors with ``prefix`` before every name."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def strip_prefix(prefix: str, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
