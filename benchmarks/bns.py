"""The BNS loss vs. the broadcast form of the released code: ``python -m benchmarks.bns``.

- Broadcast form: computes the cosine of every pair of the 2B rows by broadcasting (2B, 1, D) against (1, 2B, D).
- Step: the loss, forward and backward, on random embeddings of ten long-tailed classes.
- Timing: the sides alternate, each in its own processes. A process runs one untimed step, then repeats the step.
- Memory: the peak that the steps add to a process that already has the embeddings and has run a step on 8 of them. This
  is the resident set on a CPU, and allocated memory on a GPU.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.common import ROOT, machine
from benchmarks.timing import ratios, spread, table
from longtail.methods.pretraining.bns.objective import bns_loss

CLASSES = 10
TEMPERATURE = 0.5


def broadcast_loss(e1: Tensor, e2: Tensor, labels: Tensor) -> Tensor:
    """Compute the same loss, broadcasting all pairs of rows for the cosine similarity."""
    rows = functional.normalize(torch.cat([e1, e2]))
    both = torch.cat([labels, labels])
    similarity = (functional.cosine_similarity(rows[:, None], rows[None], dim=2) / TEMPERATURE).exp()
    same = (both[:, None] == both).float()
    positive = same - torch.eye(len(both), device=same.device)
    a = (similarity * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    b = (similarity * (1 - same)).mean(dim=1)
    return -(functional.logsigmoid(a) + functional.logsigmoid(-b)).mean()


SIDES = {"longtail": bns_loss, "broadcast": broadcast_loss}


def embeddings(batch: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return two similar views, (batch, dim) each, and labels whose class shares fall from 100 to 1."""
    stream = torch.Generator().manual_seed(0)
    shares = 100 ** (-torch.arange(CLASSES) / (CLASSES - 1))
    labels = torch.multinomial(shares, batch, replacement=True, generator=stream)
    e1 = torch.randn(batch, dim, generator=stream)
    e2 = e1 + 0.5 * torch.randn(batch, dim, generator=stream)
    return e1.to(device).requires_grad_(), e2.to(device).requires_grad_(), labels.to(device)


def step(loss: Callable[[Tensor, Tensor, Tensor], Tensor], e1: Tensor, e2: Tensor, labels: Tensor) -> float:
    """Run forward and backward. The gradients are stored in e1 and e2."""
    e1.grad = e2.grad = None
    value = loss(e1, e2, labels)
    value.backward()
    if value.is_cuda:
        torch.cuda.synchronize()
    return value.item()


def resident(field: str) -> int:
    """Return the bytes of this process's resident set. VmRSS is the current value, VmHWM the peak.

    getrusage is not used, because a child process inherits its parent's peak there.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def run_side(options: argparse.Namespace) -> dict[str, Any]:
    """Measure one side in this process: seconds of each timed step, and bytes at the peak."""
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    on_gpu = device.type == "cuda"
    loss, data = SIDES[options.side], embeddings(options.batch, options.dim, device)
    step(loss, *embeddings(8, options.dim, device))
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if on_gpu else resident("VmRSS")
    step(loss, *data)
    seconds: list[float] = []
    while len(seconds) < options.steps or sum(seconds) < options.seconds:
        start = time.perf_counter()
        step(loss, *data)
        seconds.append(time.perf_counter() - start)
    after = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM")
    return {"seconds": seconds, "bytes": after - before}


def differences(options: argparse.Namespace) -> tuple[float, float, float]:
    """Return how much the sides differ: in value, in gradient (largest), and in gradient relative to the largest."""
    e1, e2, labels = embeddings(options.batch, options.dim, torch.device(options.device))
    values, gradients = [], []
    for loss in SIDES.values():
        values.append(step(loss, e1, e2, labels))
        assert e1.grad is not None and e2.grad is not None
        gradients.append(torch.cat([e1.grad, e2.grad]))
    gap = (gradients[0] - gradients[1]).abs().max().item()
    return abs(values[0] - values[1]), gap, gap / gradients[1].abs().max().item()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=512, help="images, each with two rows")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--steps", type=int, default=1, help="smallest number of timed steps per process")
    parser.add_argument("--seconds", type=float, default=1.0, help="smallest total time of the steps per process")
    parser.add_argument("--repeats", type=int, default=5, help="processes per side")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--side", choices=tuple(SIDES), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(run_side(options)))
        return
    found: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(options.repeats):
        for side, runs in found.items():
            names = ("batch", "dim", "steps", "seconds", "threads", "device")
            flags = [word for name in names for word in (f"--{name}", str(getattr(options, name)))]
            command = [sys.executable, "-m", "benchmarks.bns", "--side", side, *flags]
            result = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
            runs.append(json.loads(result.stdout))
    torch.set_num_threads(options.threads)
    value, gradient, relative = differences(options)
    if value > 1e-6 or relative > 1e-4:
        raise SystemExit(f"the two sides differ by {value:.1e} in value and by {relative:.1e} (relative) in gradient")
    print(f"{machine('torch')}, {options.threads} threads, {options.device}")
    print(
        f"\nBatch {options.batch:,}, {options.dim} dimensions, forward and backward; {options.repeats} processes per "
        f"side, each with its median step over at least {options.seconds:g} s; median (min-max)\n"
    )
    seconds = {side: [statistics.median(run["seconds"]) for run in runs] for side, runs in found.items()}
    mebibytes = {side: [run["bytes"] / 2**20 for run in runs] for side, runs in found.items()}
    lines = [
        [what, *(spread(values[side]) for side in found), spread(ratios(values["broadcast"], values["longtail"]))]
        for what, values in (("seconds per step", seconds), ("peak memory per step, MiB", mebibytes))
    ]
    print(table(["measure", *found, "broadcast / longtail"], lines))
    print(
        f"\nThe values differ by {value:.0e}, the gradients by at most {gradient:.0e} ({relative:.0e} of the largest)."
    )


if __name__ == "__main__":
    main()
