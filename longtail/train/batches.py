"""Batches of one split part, from a tensor on the training device or from files."""

import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from longtail.augment.transforms import Transform, augment_batch, normalizer, path_transform, resize_batch
from longtail.core.errors import ConfigError, DataError
from longtail.core.seeds import derive_seed
from longtail.data.blends import Blends, blend_pictures
from longtail.data.manifest import Manifest, read_picture, read_pixels


@dataclass
class Batch:
    """One step's images.

    Attributes:
        views: one tensor (B, channels, H, W) float32 for each augmented view of the same images.
        labels: (B,) int64.
        rows: (B,) int64 positions in the split part.
        partner: a second batch from another sampler, or None.
    """

    views: tuple[Tensor, ...]
    labels: Tensor
    rows: Tensor
    partner: "Batch | None" = None

    def to_channels_last(self) -> None:
        """Store images, the partner's too, in channels-last order. Features stay as they are."""
        self.views = tuple(
            view.contiguous(memory_format=torch.channels_last) if view.ndim == 4 else view for view in self.views
        )
        if self.partner is not None:
            self.partner.to_channels_last()


class ImageSet(Protocol):
    """The n images of one split part."""

    labels: np.ndarray

    @property
    def pixels(self) -> int:
        """Pixels of one image; 1 for features."""
        ...

    def train_batches(self, order: np.ndarray, batch_size: int, views: int, seed: int) -> Iterator[Batch]:
        """Augmented batches of the rows in ``order``; the same seed and order give the same pixels."""
        ...

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(images, labels) of all rows in order, without augmentation."""
        ...


class MemoryImages:
    """Images as one uint8 tensor on the device: no workers, no copies from the host inside an epoch.

    Images of another size than the network's are resized one batch at a time, after their augmentation.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, transform: Transform, device: torch.device) -> None:
        self.labels = labels
        self._images = torch.from_numpy(np.ascontiguousarray(pixels)).to(device)
        self._labels = torch.from_numpy(labels).to(device)
        self._transform, self._device = transform, device
        self._normalize = normalizer(transform, device)

    @property
    def pixels(self) -> int:
        return self._transform.image_size**2

    def train_batches(self, order: np.ndarray, batch_size: int, views: int, seed: int) -> Iterator[Batch]:
        order_on_device = torch.from_numpy(order).to(self._device)
        generator = torch.Generator(self._device)
        for step, rows in enumerate(order_on_device.split(batch_size)):
            generator.manual_seed(derive_seed(seed, "step", step))
            pixels = (augment_batch(self._images, rows, self._transform, generator, view) for view in range(views))
            yield Batch(tuple(self._to_float(view) for view in pixels), self._labels[rows], rows)

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in zip(self._images.split(batch_size), self._labels.split(batch_size), strict=True):
            if len(images):
                yield self._to_float(images.permute(0, 3, 1, 2)), labels

    def _to_float(self, images: Tensor) -> Tensor:
        # Convolutions on the CPU want plain order, tensor cores want channels last, which a gather already gave.
        channels_last = self._device.type == "cuda"
        order = torch.channels_last if channels_last else torch.contiguous_format
        return self._normalize(resize_batch(images, self._transform).contiguous(memory_format=order))


class FeatureRows:
    """Features in the place of images: the rows (N, D) float32 as they are, in every view."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, device: torch.device) -> None:
        self.labels = labels
        self._features = torch.from_numpy(np.ascontiguousarray(features)).to(device)
        self._labels = torch.from_numpy(labels).to(device)

    @property
    def pixels(self) -> int:
        return 1

    def train_batches(self, order: np.ndarray, batch_size: int, views: int, seed: int) -> Iterator[Batch]:
        for rows in torch.from_numpy(order).to(self._labels.device).split(batch_size):
            yield Batch((self._features[rows],) * views, self._labels[rows], rows)

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for rows, labels in zip(self._features.split(batch_size), self._labels.split(batch_size), strict=True):
            if len(rows):
                yield rows, labels


@dataclass(frozen=True)
class Partners:
    """Images that are blended with others: path and SHA-256 of the partner, by position in the split part."""

    files: dict[int, tuple[str, str]]
    head_weight: float = 1.0

    @classmethod
    def of(cls, blends: Blends, manifest: Manifest, index: np.ndarray) -> "Partners":
        """Those among the rows ``index`` of the dataset."""
        partners = dict(zip(blends.image.tolist(), blends.partner.tolist(), strict=True))
        rows = ((position, partners[row]) for position, row in enumerate(index.tolist()) if row in partners)
        files = {position: (str(manifest.paths[row]), str(manifest.sha256[row])) for position, row in rows}
        return cls(files, blends.head_weight)


class _Files(Dataset):
    """One item a file: uint8 views (views, 3, S, S); the key carries the seed, so workers hold no state."""

    def __init__(
        self,
        root: Path,
        paths: np.ndarray,
        sha256: np.ndarray,
        transform: Transform,
        partners: "Partners",
        sixteen_bit: str,
    ) -> None:
        self._root, self._paths, self._sha256, self._sixteen_bit = root, paths, sha256, sixteen_bit
        self._transform, self._partners = transform, partners
        self._eval = path_transform(transform, train=False)

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[Tensor, int]:
        row, views, seed = key
        picture = read_picture(self._root, str(self._paths[row]), str(self._sha256[row]), self._sixteen_bit)
        if row in self._partners.files:
            partner = read_picture(self._root, *self._partners.files[row], self._sixteen_bit)
            picture = blend_pictures(picture, partner, self._partners.head_weight)
        if views == 0:
            return self._eval(picture), row
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return torch.stack([self._train[min(view, 1)](picture) for view in range(views)]), row

    @cached_property
    def _train(self) -> list[Callable[[Image], Tensor]]:
        return [path_transform(self._transform, train=True, view=view) for view in range(2)]


class PathImages:
    """Images as files, decoded and augmented by loader workers; results do not depend on the number of workers."""

    def __init__(
        self,
        root: Path,
        paths: np.ndarray,
        sha256: np.ndarray,
        labels: np.ndarray,
        transform: Transform,
        device: torch.device,
        workers: int,
        partners: Partners | None = None,
        sixteen_bit: str = "scale",
    ) -> None:
        self.labels = labels
        self._labels = torch.from_numpy(labels).to(device)
        self._files = _Files(root, paths, sha256, transform, partners or Partners({}), sixteen_bit)
        self._device, self._workers = device, workers
        self._side = transform.image_size
        self._normalize = normalizer(transform, device)

    @property
    def pixels(self) -> int:
        return self._side**2

    def train_batches(self, order: np.ndarray, batch_size: int, views: int, seed: int) -> Iterator[Batch]:
        keys = [(int(row), views, derive_seed(seed, "position", position)) for position, row in enumerate(order)]
        for stacked, rows in self._load(keys, batch_size):
            images = tuple(self._normalize(stacked[:, view]) for view in range(views))
            yield Batch(images, self._labels[rows], rows)

    def eval_batches(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for images, rows in self._load([(row, 0, 0) for row in range(len(self.labels))], batch_size):
            yield self._normalize(images), self._labels[rows]

    def _load(self, keys: list[tuple[int, int, int]], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        groups = [keys[start : start + batch_size] for start in range(0, len(keys), batch_size)]
        pinned = self._device.type == "cuda"
        loader = DataLoader(self._files, batch_sampler=groups, num_workers=self._workers, pin_memory=pinned)
        try:
            for images, rows in loader:
                yield images.to(self._device, non_blocking=pinned), rows.to(self._device, non_blocking=pinned)
        except DataError as error:
            traceback.clear_frames(error.__traceback__)  # else the loader lives on, and ends its workers by a timeout
            # A worker's error arrives with its traceback as the message; the sentence for the user is the last line.
            kind = type(error)
            raise kind(str(error).strip().splitlines()[-1].partition(f"{kind.__name__}: ")[2] or str(error)) from error
        except RuntimeError as error:
            if not str(error).startswith("DataLoader worker"):
                raise
            raise DataError(f"a loader process died ({error}); lower runtime.workers, now {self._workers}") from error


def open_part(
    manifest: Manifest,
    folder: Path,
    data_root: str | None,
    index: np.ndarray,
    transform: Transform,
    device: torch.device,
    workers: int,
    pixels: np.ndarray | None = None,
    blends: Blends | None = None,
) -> ImageSet:
    """The images ``index`` (n,) of a prepared dataset.

    Args:
        manifest, folder: the prepared dataset and where its images.h5 lies.
        data_root: the folder of the files of a path set.
        pixels: all pixels of a memory set, if they have been read already, with the blended images in their rows.
        blends: for a path set, images that are blended as they are read.

    Raises:
        ConfigError: a path set without data_root.
    """
    labels = manifest.labels[index]
    if manifest.info.storage == "memory":
        pixels = read_pixels(folder) if pixels is None else pixels
        return MemoryImages(pixels[index], labels, transform, device)
    if data_root is None:
        raise ConfigError(
            "data_root must be the folder of the images, got null (the prepared dataset holds paths below it)"
        )
    paths, sha256 = manifest.paths[index], manifest.sha256[index]
    partners = Partners.of(blends or Blends(), manifest, index)
    rule = manifest.info.sixteen_bit
    return PathImages(Path(data_root), paths, sha256, labels, transform, device, workers, partners, rule)
