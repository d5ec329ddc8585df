"""Checkpoints of a training in parts: finished parts are never computed again, others go on from their last epoch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longtail.artifacts.checkpoints import load_checkpoint, save_checkpoint
from longtail.core.errors import ArtifactError

if TYPE_CHECKING:
    import torch


class Stash:
    """One checkpoint for each part, in a folder that belongs to one run; without a folder nothing is kept.

    Args:
        folder: of this very run (see ``longtail.artifacts.scratch``), or None.
        every: epochs between checkpoints of a part.
    """

    def __init__(self, folder: Path | None = None, every: int = 1) -> None:
        self._folder, self._every = folder, every

    def load(self, part: str) -> tuple[dict[str, "torch.Tensor"], dict[str, Any]] | None:
        """The tensors (on the CPU) and the meta data of ``part``, or None where there are none that can be read."""
        path = self._path(part)
        if path is None or not path.is_file():
            return None
        try:
            tensors, meta, _ = load_checkpoint(path, path.parent.parent.name)
        except ArtifactError as error:
            print(f"starting over, since the checkpoint of the unfinished run cannot be read: {error}")
            return None
        return tensors, meta

    def save(self, part: str, tensors: Mapping[str, "torch.Tensor"], meta: Mapping[str, Any]) -> None:
        """Keep the state of ``part``."""
        path = self._path(part)
        if path is not None:
            save_checkpoint(path, tensors, meta)

    def due(self, epoch: int, last: bool) -> bool:
        """Whether to save after this 1-based epoch; always after the last."""
        return self._folder is not None and (last or epoch % self._every == 0)

    def _path(self, part: str) -> Path | None:
        return None if self._folder is None else self._folder / f"{part}.pt"


def with_prefix(prefix: str, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The tensors under longer names."""
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


def below(prefix: str, tensors: Mapping[str, "torch.Tensor"]) -> dict[str, "torch.Tensor"]:
    """The tensors whose names begin with ``prefix``, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
