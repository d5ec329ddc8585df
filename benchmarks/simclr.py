"""Batched SimCLR augmentation vs. torchvision's per-image transforms: ``python -m benchmarks.simclr [--threads 2]``.

Measures two views of 32 x 32 images in batches of 512, as used in contrastive pretraining. The direct side is a typical
script: PIL images, ``torchvision.transforms`` v1 (as in the released BNS code) or v2 (on PIL images or tensors), and a
DataLoader with persistent workers. The workers are warm: the epoch that starts them is not timed. On a GPU, the direct
side pins its batches and copies them to the GPU.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as v1
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as per_image

from benchmarks.common import machine
from benchmarks.timing import alternate, ratios, spread, table
from longtail.augment.simclr import Parameters, draw_parameters, simclr_batch
from longtail.augment.transforms import Transform, normalizer
from longtail.core.seeds import derive_seed
from longtail.train.params import RuntimeParams
from longtail.train.runtime import set_up

SIDE, KERNEL, SIGMA = 32, 3, (0.1, 2.0)
STRENGTH = 2.0
JITTER = (0.8 * STRENGTH, 0.8 * STRENGTH, 0.8 * STRENGTH, 0.2 * STRENGTH)
VIEWS = 2
TRANSFORM = Transform("none", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), SIDE)  # the BNS recipe only scales to [0, 1]
TOLERANCE = 1e-4  # fraction of the range, see longtail.augment.simclr
SEED = 0
V2_STEPS = [
    v2.RandomResizedCrop(SIDE, antialias=True),
    v2.RandomHorizontalFlip(),
    v2.RandomApply([v2.ColorJitter(*JITTER)], p=0.8),
    v2.RandomGrayscale(p=0.2),
    v2.GaussianBlur(KERNEL, SIGMA),
]
PIPELINES = {
    "torchvision v1": [
        v1.RandomResizedCrop(SIDE),
        v1.RandomHorizontalFlip(),
        v1.RandomApply([v1.ColorJitter(*JITTER)], p=0.8),
        v1.RandomGrayscale(p=0.2),
        v1.GaussianBlur(KERNEL, SIGMA),
        v1.ToTensor(),
    ],
    "torchvision v2, PIL": [*V2_STEPS, v2.ToImage(), v2.ToDtype(torch.float32, scale=True)],
    "torchvision v2, tensors": [v2.ToImage(), *V2_STEPS, v2.ToDtype(torch.float32, scale=True)],
}


class Pictures(Dataset):
    """Images as in torchvision's CIFAR dataset: a PIL image made from an array, then the transforms, once per view."""

    def __init__(self, pixels: np.ndarray, pipeline: str) -> None:
        self._pixels = pixels
        self._transform = v1.Compose(PIPELINES[pipeline])

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        picture = Image.fromarray(self._pixels[row])
        return tuple(self._transform(picture) for _ in range(VIEWS))


class Bench:
    """The images, and one pass over them with either side, on one device."""

    def __init__(self, images: int, batch_size: int, workers: int, device: torch.device) -> None:
        self.pixels = np.random.default_rng(SEED).integers(0, 256, (images, SIDE, SIDE, 3), dtype=np.uint8)
        self.batch_size, self.workers, self.device = batch_size, workers, device
        self._images = torch.from_numpy(self.pixels).to(device)
        self._normalize = normalizer(TRANSFORM, device)

    def check(self) -> float:
        """Return the largest difference between a longtail batch and torchvision's float operations per image."""
        generator = torch.Generator(self.device).manual_seed(SEED)
        rows = torch.arange(self.batch_size, device=self.device) % len(self.pixels)
        ours = self._view(rows, generator).cpu()
        generator.manual_seed(SEED)
        drawn = draw_parameters(len(rows), SIDE, SIDE, generator, jitter_strength=STRENGTH, flip=True)
        parameters = Parameters(**{name: values.cpu() for name, values in vars(drawn).items()})
        worst = 0.0
        for position, row in enumerate(rows.tolist()):
            image = torch.from_numpy(self.pixels[row]).permute(2, 0, 1).to(torch.float32) / 255
            expected = augment_one(image, parameters, position)
            worst = max(worst, float((ours[position] - expected).abs().max()))
        assert worst <= TOLERANCE, f"pixels differ by {worst:.1e}"
        return worst

    def epoch(self) -> None:
        """Run one pass with longtail and wait for the device."""
        order = torch.from_numpy(np.random.default_rng(SEED).permutation(len(self.pixels))).to(self.device)
        generator = torch.Generator(self.device)
        for step, rows in enumerate(order.split(self.batch_size)):
            generator.manual_seed(derive_seed(SEED, "step", step))
            views = [self._view(rows, generator) for _ in range(VIEWS)]
        views[-1].sum().item()

    def _view(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        return self._normalize(simclr_batch(self._images, rows, generator, jitter_strength=STRENGTH, flip=True))

    def loader(self, pipeline: str) -> DataLoader:
        return DataLoader(
            Pictures(self.pixels, pipeline),
            batch_size=self.batch_size,
            shuffle=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=self.device.type == "cuda",
        )

    def direct_epoch(self, batches: DataLoader) -> None:
        """Run one pass with a DataLoader, copying batches to the device."""
        for views in batches:
            views = [view.to(self.device, non_blocking=True) for view in views]
        views[-1].sum().item()


def augment_one(image: Tensor, parameters: Parameters, position: int) -> Tensor:
    """Apply torchvision's operations to a (3, H, W) image in [0, 1], with the parameters at one batch position."""
    chosen = {name: values[position].tolist() for name, values in vars(parameters).items()}
    window = [chosen[name] for name in ("top", "left", "height", "width")]
    image = per_image.resized_crop(image, *window, [SIDE, SIDE], antialias=True)
    image = per_image.horizontal_flip(image) if chosen["mirror"] else image
    for operation in chosen["order"] if chosen["jitter"] else ():
        name = ("brightness", "contrast", "saturation", "hue")[operation]
        image = getattr(per_image, f"adjust_{name}")(image, chosen[name])
    image = per_image.rgb_to_grayscale(image, num_output_channels=3) if chosen["grayscale"] else image
    return per_image.gaussian_blur(image, [KERNEL, KERNEL], [chosen["sigma"], chosen["sigma"]])


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--images", type=int, default=10_847, help="default as in CIFAR-100-LT, imbalance factor 100")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of longtail on the CPU")
    parser.add_argument("--workers", type=int, default=2, help="workers of the DataLoader")
    options = parser.parse_args(arguments)
    print(f"{machine('torch', 'torchvision', 'pillow')}")
    print(
        f"{options.images:,} images of {SIDE} x {SIDE}, {VIEWS} views each, batches of {options.batch_size}, "
        f"{options.threads} threads, {options.workers} loader workers, warm; n = {options.repeats}, median (min-max)"
    )
    for name in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        device = set_up(RuntimeParams(device=name, threads=options.threads))
        bench = Bench(options.images, options.batch_size, options.workers, device)
        loaders = {pipeline: bench.loader(pipeline) for pipeline in PIPELINES}
        print(f"\nAugmented images on {name}; the same parameters differ by at most {bench.check():.1e}:\n")
        print(_compare(bench, loaders, options.images, options.repeats))


def _compare(bench: Bench, loaders: dict[str, DataLoader], images: int, repeats: int) -> str:
    """Return the table of images/s, two views each. An untimed first round warms up workers and device."""
    tasks: list[Callable[[], None]] = [bench.epoch]
    tasks += [partial(bench.direct_epoch, batches) for batches in loaders.values()]
    alternate(1, *tasks)
    timed = [task.seconds for task in alternate(repeats, *tasks)]
    lines = [["longtail", spread([images / s for s in timed[0]]), ""]]
    for pipeline, seconds in zip(loaders, timed[1:], strict=True):
        lines.append([pipeline, spread([images / s for s in seconds]), spread(ratios(seconds, timed[0]))])
    return table(["side", f"images/s ({VIEWS} views each)", "speedup of longtail"], lines)


if __name__ == "__main__":
    main()
