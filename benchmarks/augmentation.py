"""Batched augmentation vs. torchvision's per-image transforms: ``python -m benchmarks.augmentation [--threads 2]``.

Measures random crop (padding 4), mirror and normalization of 32 x 32 images in batches of 128. With --policy,
AutoAugment or RandAugment runs before normalization; longtail then also applies cutout.

The direct side is a typical script: PIL images, ``torchvision.transforms`` v1 or v2, and a DataLoader with persistent
workers. The workers are warm: the epoch that starts them is not timed. On a GPU, the direct side pins its batches and
copies them to the GPU, and full training epochs are timed too.
"""

import argparse
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import functional as per_image
from torchvision.transforms import v2

from benchmarks.common import machine
from benchmarks.timing import alternate, ratios, spread, table
from longtail.augment.crops import crop_batch
from longtail.augment.policies import randaugment
from longtail.augment.transforms import CONSTANTS, Transform, normalizer
from longtail.data.samplers import create_sampler
from longtail.methods.objectives.ce.objective import CrossEntropy
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train.batches import MemoryImages
from longtail.train.network import TrainingSettings, train_network
from longtail.train.objective import TaskInfo
from longtail.train.params import RuntimeParams
from longtail.train.runtime import set_up
from longtail.train.schedule import create_schedule

SIDE, PADDING, CLASSES = 32, 4, 100
MEAN, STD = CONSTANTS["cifar"]
TRANSFORM = Transform("crop_flip", MEAN, STD, SIDE)
POLICIES: dict[str, Callable[[Any], list[Any]]] = {
    "crop_flip": lambda version: [],
    "autoaugment": lambda version: [version.AutoAugment(version.AutoAugmentPolicy.CIFAR10)],
    "randaugment": lambda version: [version.RandAugment(*randaugment.IN_MEMORY)],
}
LR, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 2e-4
SEED = 0
START, END = (
    {"torchvision v1": [v1.RandomCrop(SIDE, padding=PADDING), v1.RandomHorizontalFlip()],
     "torchvision v2": [v2.RandomCrop(SIDE, padding=PADDING), v2.RandomHorizontalFlip()]},
    {"torchvision v1": [v1.ToTensor(), v1.Normalize(MEAN, STD)],
     "torchvision v2": [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]},
)  # fmt: skip
VERSIONS = {"torchvision v1": v1, "torchvision v2": v2}


class Pictures(Dataset):
    """Images as in torchvision's CIFAR dataset: a PIL image made from an array, then the transforms."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, pipeline: str, policy: str) -> None:
        self._pixels, self._labels = pixels, labels.tolist()
        self._transform = v1.Compose([*START[pipeline], *POLICIES[policy](VERSIONS[pipeline]), *END[pipeline]])

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return self._transform(Image.fromarray(self._pixels[row])), self._labels[row]


class Bench:
    """The images, and one pass over them with either side, on one device."""

    def __init__(
        self, images: int, batch_size: int, workers: int, device: torch.device, policy: str = "crop_flip"
    ) -> None:
        rng = np.random.default_rng(SEED)
        self.pixels = rng.integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8)
        self.labels = np.arange(images) % CLASSES
        self.batch_size, self.workers, self.device = batch_size, workers, device
        self.policy = policy
        self.memory = MemoryImages(self.pixels, self.labels, TRANSFORM.with_policy(policy, 1.0), device)

    def check(self) -> float:
        """Return the largest difference between a longtail batch and the same windows cropped by torchvision."""
        rng = np.random.default_rng(SEED)
        rows = rng.integers(0, len(self.labels), self.batch_size)
        top, left = rng.integers(0, 2 * PADDING + 1, (2, self.batch_size))
        mirrored = rng.random(self.batch_size) < 0.5
        pixels, chosen, corner_y, corner_x, flip = (
            torch.from_numpy(values).to(self.device) for values in (self.pixels, rows, top, left, mirrored)
        )
        ours = normalizer(TRANSFORM, self.device)(crop_batch(pixels, chosen, corner_y, corner_x, flip, PADDING)).cpu()
        worst = 0.0
        for position, row in enumerate(rows):
            picture = per_image.pad(Image.fromarray(self.pixels[row]), PADDING)
            picture = per_image.crop(picture, int(top[position]), int(left[position]), SIDE, SIDE)
            picture = per_image.hflip(picture) if mirrored[position] else picture
            expected = per_image.normalize(per_image.to_tensor(picture), MEAN, STD)
            worst = max(worst, float((ours[position] - expected).abs().max()))
        assert worst <= 1e-5, f"pixels differ by {worst:.1e}"
        return worst

    def epoch(self) -> None:
        """Run one pass with longtail and wait for the device."""
        order = np.random.default_rng(SEED).permutation(len(self.labels))
        for batch in self.memory.train_batches(order, self.batch_size, 1, SEED):
            last = batch.views[0]
        last.sum().item()

    def loader(self, pipeline: str) -> DataLoader:
        return DataLoader(
            Pictures(self.pixels, self.labels, pipeline, self.policy),
            batch_size=self.batch_size,
            shuffle=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def direct_epoch(self, batches: DataLoader) -> None:
        """Run one pass with a DataLoader, copying batches to the device."""
        for images, _ in batches:
            last = images.to(self.device, non_blocking=True)
        last.sum().item()

    def train(self, backbone: str, epochs: int) -> None:
        """Train with longtail's loop, deterministically, as in its stages."""
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
        counts = np.bincount(self.labels, minlength=CLASSES)
        model = create_model(backbone)
        task = TaskInfo(CLASSES, counts, int(model.backbone.num_features), epochs, SEED)  # type: ignore[arg-type]
        sampler = create_sampler("instance", self.labels, seed=SEED, epochs=epochs)
        settings = TrainingSettings(
            epochs=epochs,
            batch_size=self.batch_size,
            lr=LR,
            momentum=MOMENTUM,
            weight_decay=WEIGHT_DECAY,
            schedule=create_schedule("constant", epochs=epochs),
            seed=SEED,
            checkpoint_every=epochs,
            progress="off",
        )
        with tempfile.TemporaryDirectory() as scratch:
            train_network(model, CrossEntropy(task), self.memory, None, sampler, settings, self.device, Path(scratch))

    def direct_train(self, backbone: str, epochs: int, batches: DataLoader) -> None:
        """Train with a DataLoader, reading the loss at each step, with the fastest convolutions that cuDNN finds."""
        model = create_model(backbone).to(self.device)
        optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
        total = 0.0
        for _ in range(epochs):
            for images, labels in batches:
                images, labels = images.to(self.device, non_blocking=True), labels.to(self.device)
                loss = F.cross_entropy(model(images), labels)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += loss.item()
        assert np.isfinite(total)


def create_model(name: str) -> Classifier:
    """Create the network, the same for both sides."""
    torch.manual_seed(SEED)
    backbone = create_backbone(name, in_channels=3)
    return Classifier(backbone, torch.nn.Linear(int(backbone.num_features), CLASSES))  # type: ignore[arg-type]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=10_847, help="default as in CIFAR-100-LT, imbalance factor 100")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of longtail on the CPU")
    parser.add_argument("--workers", type=int, default=2, help="workers of the DataLoader")
    parser.add_argument("--policy", default="crop_flip", choices=list(POLICIES))
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--epochs", type=int, help="epochs of timed training; default 5 with a GPU, 0 (none) without")
    options = parser.parse_args(arguments)
    print(f"{machine('torch', 'torchvision', 'pillow')}")
    print(
        f"{options.policy}, {options.images:,} images of {SIDE} x {SIDE}, batches of {options.batch_size}, "
        f"{options.threads} threads, {options.workers} loader workers, warm; n = {options.repeats}, median (min-max)"
    )
    for name in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        device = set_up(RuntimeParams(device=name, threads=options.threads))
        bench = Bench(options.images, options.batch_size, options.workers, device, options.policy)
        loaders = {pipeline: bench.loader(pipeline) for pipeline in VERSIONS}
        print(f"\nAugmented images on {name}; the same crop windows differ by at most {bench.check():.1e}:\n")
        print(_compare(bench.epoch, bench.direct_epoch, loaders, options.images, options.repeats))
        epochs = (5 if name == "cuda" else 0) if options.epochs is None else options.epochs
        if epochs:
            print(f"\nTraining {options.backbone} on {name}, float32, {epochs} epochs at a time:\n")
            ours = partial(bench.train, options.backbone, epochs)
            direct = partial(bench.direct_train, options.backbone, epochs)
            print(_compare(ours, direct, loaders, options.images * epochs, options.repeats))


def _compare(
    ours: Callable[[], None],
    direct: Callable[[DataLoader], None],
    loaders: dict[str, DataLoader],
    images: int,
    repeats: int,
) -> str:
    """Return the table of images/s. An untimed first round starts the workers and warms up the device."""
    tasks: list[Callable[[], None]] = [ours, *(partial(direct, batches) for batches in loaders.values())]
    alternate(1, *tasks)
    timed = [task.seconds for task in alternate(repeats, *tasks)]
    lines = [["longtail", spread([images / s for s in timed[0]]), ""]]
    for pipeline, seconds in zip(loaders, timed[1:], strict=True):
        lines.append([pipeline, spread([images / s for s in seconds]), spread(ratios(seconds, timed[0]))])
    return table(["side", "images/s", "speedup of longtail"], lines)


if __name__ == "__main__":
    main()
