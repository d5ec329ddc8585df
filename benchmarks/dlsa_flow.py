"""One training step of DLSA's flow vs. the direct form: ``python -m benchmarks.dlsa_flow``.

- Direct form: runs the flow on the positive and the negative batch one after the other, and computes the distances to
  the centers from the (B, K, d) differences.
- Step: the forward pass, the three losses, the backward pass and SGD. The sides alternate, each in its own processes.
- Memory: the peak that the steps add to a process that already has the data, the flow and the optimizer. This is the
  resident set on a CPU, and allocated memory on a GPU.

``--full`` trains the official ImageNet-LT configuration (115,846 x 2,048 synthetic features, 1,000 classes with counts
like the real ones, depth 3) and prints the time. It is meant for a GPU. --epochs and --head-epochs shorten it.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import ROOT, machine
from benchmarks.timing import ratios, spread, table
from longtail.methods.dlsa.chain import fit_chain
from longtail.methods.dlsa.filter import create_filter
from longtail.methods.dlsa.flow_training import Rows, train_filter
from longtail.methods.dlsa.losses import balance_loss, class_weights, likelihood_loss, purity_loss
from longtail.methods.dlsa.mixture import mixture_log_density
from longtail.methods.dlsa.settings import PUBLISHED, Settings
from longtail.methods.dlsa.start import Starts
from longtail.methods.heads.base import LinearHead
from longtail.train.checkpointing import CheckpointStore

CLASSES = 1000


def direct_components(u: Tensor, log_det: Tensor, centers: Tensor) -> Tensor:
    """Return log p(x, k), computed from the (B, K, d) differences."""
    distances = (u[:, None, :] - centers[None]).square().sum(dim=-1)
    return log_det[:, None] - 0.5 * distances - 0.5 * u.shape[1] * math.log(2 * math.pi)


def losses(positive: Tensor, negative: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Return the official weighted sum of the three losses."""
    likelihood = likelihood_loss(mixture_log_density(positive), weights[y])
    balance, _ = balance_loss(positive, torch.zeros_like(positive[0]), 1)
    return 2.0 * likelihood + 0.02 * purity_loss(positive, negative) + balance


def build(options: argparse.Namespace) -> tuple[Callable[[], Tensor], torch.device]:
    """Return the step function of one side, which returns the loss, and the device. Both sides draw the same data."""
    device = torch.device(options.device)
    stream = torch.Generator().manual_seed(0)
    x = torch.randn(2, options.batch, options.width, generator=stream).abs().to(device)
    y = torch.randint(CLASSES, (options.batch,), generator=stream).to(device)
    weights = class_weights(torch.arange(CLASSES) + 5, 2.0).to(device, torch.float32)
    model = create_filter(x[0], Settings(clusters=options.clusters), 0).train()
    optimizer = torch.optim.SGD(model.flow.parameters(), lr=1e-3, fused=True)

    def step() -> Tensor:
        if options.side == "longtail":
            positive, negative = model.components(x)
        else:
            positive, negative = (direct_components(*model.latent(half), model.centers) for half in x)
        loss = losses(positive, negative, y, weights)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step, device


def resident(peak: bool) -> int:
    """Return the bytes of this process's resident set, now or at its peak."""
    if peak:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def run_side(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one side in this process: seconds of each step after the first, bytes at the peak, and the losses."""
    torch.set_num_threads(options.threads)
    step, device = build(options)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else resident(peak=False)
    values, seconds = [float(step())], []
    for _ in range(options.steps):
        start = time.perf_counter()
        values.append(float(step()))
        seconds.append(time.perf_counter() - start)
    after = torch.cuda.max_memory_allocated() if on_gpu else resident(peak=True)
    return {"seconds": seconds, "bytes": after - before, "losses": values}


def compare(options: argparse.Namespace) -> None:
    """Run both sides alternately, ``repeats`` times, and print the table."""
    found: dict[str, list[dict[str, Any]]] = {"longtail": [], "direct": []}
    for _ in range(options.repeats):
        for side, runs in found.items():
            names = ("batch", "clusters", "width", "steps", "threads", "device")
            flags = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
            command = [sys.executable, "-m", "benchmarks.dlsa_flow", "--side", side, *flags]
            result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            runs.append(json.loads(result.stdout))
    gaps = [
        abs(ours - theirs) / abs(theirs)
        for one, other in zip(found["longtail"], found["direct"], strict=True)
        for ours, theirs in zip(one["losses"], other["losses"], strict=True)
    ]
    if max(gaps) > 1e-3:
        raise SystemExit(f"the losses of the two sides differ by {max(gaps):.1e} (relative)")
    print(f"{machine('torch')}, {options.threads} threads")
    print(
        f"\nBatch {options.batch:,} pairs, {options.clusters} clusters, {options.width:,} features; {options.repeats} "
        f"processes of {options.steps} steps per side, median (min-max)\n"
    )
    seconds = {side: [sum(run["seconds"]) / options.steps for run in runs] for side, runs in found.items()}
    mebibytes = {side: [run["bytes"] / 2**20 for run in runs] for side, runs in found.items()}
    lines = [
        [what, *(spread(values[side]) for side in found), spread(ratios(values["direct"], values["longtail"]))]
        for what, values in (("seconds per step", seconds), ("peak memory per step, MiB", mebibytes))
    ]
    print(table(["measure", *found, "direct / longtail"], lines))
    print(f"\nLosses of all steps agree to {max(gaps):.0e} (relative).")


def counts_like_imagenet_lt(rows: int) -> np.ndarray:
    """Return (1000,) counts from 1,280 to 5 that sum to about ``rows``, from a power law fitted to that sum."""
    rank = np.linspace(0, 1, CLASSES)
    low, high = 0.1, 20.0
    for _ in range(60):
        power = (low + high) / 2
        counts = 5 + (1280 - 5) * (1 - rank) ** power
        low, high = (power, high) if counts.sum() > rows else (low, power)
    return counts.astype(np.int64)


def full(options: argparse.Namespace) -> None:
    """Train the official configuration at the size of ImageNet-LT."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    counts = counts_like_imagenet_lt(115_846)
    if options.counts is not None:
        counts = np.array(json.loads(options.counts.read_text())["ImageNet_LT_train"])
    y = torch.repeat_interleave(torch.arange(CLASSES), torch.from_numpy(counts))
    stream = torch.Generator().manual_seed(0)
    centers = torch.randn(CLASSES, options.width, generator=stream)
    x = torch.relu(centers[y] * 0.5 + torch.randn(len(y), options.width, generator=stream))
    rows = {"train": Rows(x.to(device), y.to(device))}
    settings = replace(
        Settings(**PUBLISHED["imagenet_lt_paco"]),
        clusters=options.clusters,
        flow_batch_size=options.batch,
        flow_epochs=options.epochs,
        epochs=options.head_epochs,
    )
    head = LinearHead(np.zeros((CLASSES, options.width), np.float32), np.zeros(CLASSES, np.float32))
    start = time.perf_counter()
    train_filter(
        rows, counts, replace(settings, flow_select="last"), 0, "flow alone", "flow", CheckpointStore(), "lines"
    )
    if device.type == "cuda":
        torch.cuda.synchronize()
    an_epoch = (time.perf_counter() - start) / options.epochs
    start = time.perf_counter()
    chain = fit_chain(rows, Starts(head), settings, 0, CheckpointStore(), "lines")
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    where = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{machine('torch')}, {where}\n{len(y):,} x {options.width} features, depth {chain.depth}")
    print(f"{an_epoch:,.1f} s per epoch of the first flow, including its measures")
    print(f"{options.epochs} flow epochs per level, {options.head_epochs} epochs per head: {seconds:,.1f} s in total")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1024, help="pairs")
    parser.add_argument("--clusters", type=int, default=500)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=3, help="timed steps, after an untimed one")
    parser.add_argument("--repeats", type=int, default=3, help="processes per side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=("longtail", "direct"), help=argparse.SUPPRESS)
    parser.add_argument("--full", action="store_true", help="train at ImageNet-LT's size instead")
    parser.add_argument("--epochs", type=int, default=50, help="--full: flow epochs per level")
    parser.add_argument("--head-epochs", type=int, default=150, help="--full: epochs per head")
    parser.add_argument("--counts", type=Path, help="--full: JSON file with the class counts under ImageNet_LT_train")
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(run_side(options)))
    elif options.full:
        full(options)
    else:
        compare(options)


if __name__ == "__main__":
    main()
