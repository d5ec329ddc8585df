"""A training step of FSGL vs. the released form of its feature scaling: ``python -m benchmarks.fsgl``.

The released form sums the factor of every mixed image class by class in Python, over the elements of the mixed labels,
in both views and both passes of SAM. Everything else is the same. Both sides start from the same weights, take the same
steps, and alternate in one process. The first step is not timed; the weights are compared after it. (Later they drift
apart, because rounding errors grow in a network.)
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import machine
from benchmarks.timing import alternate, ratios, spread, table
from longtail.methods.objectives.fsgl.objective import FSGL, Mixed
from longtail.models.classifier import Classifier
from longtail.models.factory import create_backbone
from longtail.train.batches import Batch
from longtail.train.objective import Position, TaskInfo
from longtail.train.optimizer import create_optimizer
from longtail.train.optimizer_step import OptimizerStep

LARGEST, IMBALANCE = 500, 100
LIMIT = 1e-4  # largest difference between the weights of the sides, relative to the largest weight of the tensor


class Released(FSGL):
    """FSGL with the scaling of every image summed in Python."""

    def scaling(self, mixed: Mixed, share: Tensor) -> Tensor:
        classes, gamma = self.task.num_classes, self.params.gamma
        own, other = (F.one_hot(labels, classes).float() for labels in (mixed.labels, mixed.partners))
        soft = share * own + (1 - share) * other
        factors = []
        for row in range(len(soft)):
            factor = torch.zeros((), device=soft.device)
            for k in range(classes):
                factor = factor + soft[row, k] * round(1 + gamma - k * (gamma / classes), 2)
            factors.append(factor)
        return torch.stack(factors)


class Side:
    """One objective with its own network. The batches are the same for all sides."""

    def __init__(self, kind: type[FSGL], options: argparse.Namespace, device: torch.device) -> None:
        counts = (LARGEST * IMBALANCE ** (-np.arange(options.classes) / (options.classes - 1))).astype(np.int64)
        torch.manual_seed(0)
        backbone = create_backbone(options.backbone, in_channels=3).to(device)
        task = TaskInfo(options.classes, counts, int(backbone.num_features), 200, 0)  # type: ignore[arg-type]
        self.objective = kind(task, gamma=1.0).to(device)
        self.model = Classifier(backbone, self.objective.create_head().to(device))
        optimizer = create_optimizer("sgd", [self.model, self.objective], lr=0.01, momentum=0.9, weight_decay=5e-3)
        self.update, self.device, self.options = OptimizerStep(optimizer, device), device, options
        self.taken = 0
        self.batches = [self.draw(number) for number in range(options.repeats + 1)]

    def draw(self, number: int) -> Batch:
        """Draw a batch, which is the same for all sides."""
        draw = torch.Generator().manual_seed(number)
        size, classes = self.options.batch, self.options.classes
        views = [torch.randn(size, 3, 32, 32, generator=draw).to(self.device) for _ in range(4)]
        labels = [torch.randint(classes, (size,), generator=draw).to(self.device) for _ in range(2)]
        rows = torch.arange(size, device=self.device)
        return Batch((views[0], views[1]), labels[0], rows, Batch((views[2], views[3]), labels[1], rows))

    def step(self) -> None:
        """Take one optimizer step on the next batch."""
        torch.manual_seed(self.taken)
        self.objective.step(self.model, self.batches[self.taken], Position(100, 200, self.taken, 1000), self.update)
        self.wait()
        self.taken += 1

    def scale(self) -> Tensor:
        """Compute only the factors of one batch."""
        draw = torch.Generator().manual_seed(0)
        classes, size = self.options.classes, self.options.batch
        labels, partners = (torch.randint(classes, (size,), generator=draw).to(self.device) for _ in range(2))
        share = torch.full((1,), 0.3, device=self.device)
        images = torch.zeros(0, device=self.device)
        factors = self.objective.scaling(Mixed((images, images), labels, partners, (share, share)), share)
        self.wait()
        return factors

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def compare(one: Side, other: Side) -> float:
    """Return the largest difference of a weight, relative to the largest weight of its tensor."""
    pairs = [
        pair
        for ours, theirs in ((one.model, other.model), (one.objective, other.objective))
        for pair in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True)
    ]
    floats = [(a, b) for a, b in pairs if a.is_floating_point()]
    return max(((a - b).abs().max() / b.abs().max().clamp(min=1e-6)).item() for a, b in floats)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet32")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    ours, released = (Side(kind, options, torch.device(options.device)) for kind in (FSGL, Released))
    torch.testing.assert_close(ours.scale(), released.scale())
    for side in (ours, released):
        side.step()
    gap = compare(ours, released)
    if not gap < LIMIT:
        raise SystemExit(f"the two sides differ by {gap:.1e} of the largest weight")
    lines = []
    tasks: list[tuple[str, Callable[[], Any], Callable[[], Any]]] = [
        ("one step", ours.step, released.step),
        ("the factors of one view", ours.scale, released.scale),
    ]
    for what, own, direct in tasks:
        fast, slow = (timed.seconds for timed in alternate(options.repeats, own, direct))
        lines.append([what, spread(fast), spread(slow), spread(ratios(slow, fast))])
    print(f"{machine('torch')}, {options.threads} threads, {options.device}\n")
    print(
        f"{options.backbone}, {options.classes} classes, batches of {options.batch} images of 32 x 32, SAM; "
        f"n = {options.repeats}, median (min-max)\n"
    )
    print(table(["seconds for", "longtail", "released form", "released / longtail"], lines))
    print(f"\nAfter one step the weights differ by at most {gap:.0e} of the largest weight of their tensor.")


if __name__ == "__main__":
    main()
