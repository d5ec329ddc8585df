"""Where images come from. One module per dataset source; each declares its entry as ``SOURCE``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from longtail.core.registry import Registry

if TYPE_CHECKING:
    from longtail.data.params import DatasetParams
    from longtail.data.sources.base import Source


@dataclass(frozen=True)
class SourceEntry:
    """A dataset source.

    Attributes:
        load: (parameters, folder for downloads) -> all labeled images.
        needs_data_root: whether ``data_root`` must be given.
        reads_data_root: whether ``data_root`` has any effect.
        has_images: whether it has images; otherwise ``load`` returns a ``FeatureSource``.
        image_shape: (side, channels) of the images, if the source has one of its own.
        files: parameters -> the user's own few files whose content decides what ``prepare`` writes, by the names of
            ``Source.digests``. A file that may be left out is named if it is there. None for a source without such
            files.
        may_be_unsplit: whether it may come without a test part, so that ``test_share`` draws one.
        has_val: parameters -> whether the source has a val part of its own; None if only its files can tell.
    """

    load: Callable[[DatasetParams, Path], Source]
    needs_data_root: bool = False
    reads_data_root: bool = True
    has_images: bool = True
    image_shape: tuple[int, int] | None = None
    files: Callable[[DatasetParams], dict[str, Path]] | None = None
    may_be_unsplit: bool = False
    has_val: Callable[[DatasetParams], bool | None] = lambda params: False


SOURCES: Registry[SourceEntry] = Registry("longtail.data.sources", "SOURCE", "dataset")
