"""Device, threads and determinism of a process."""

import os
import sys
from importlib.metadata import version

import torch

from longtail.core.errors import ConfigError
from longtail.train.params import RuntimeParams as Runtime


def set_up(runtime: Runtime) -> torch.device:
    """Choose the device and make this process's results repeatable on it.

    Raises:
        ConfigError: ``runtime.device`` asks for a GPU that is not there.
    """
    available = torch.cuda.is_available()
    name = ("cuda" if available else "cpu") if runtime.device == "auto" else runtime.device
    device = torch.device(name)
    if device.type == "cuda" and (not available or (device.index or 0) >= torch.cuda.device_count()):
        seen = torch.cuda.device_count()
        raise ConfigError(f"runtime.device must be a device that torch sees ({seen} GPUs), got {runtime.device}")
    torch.set_num_threads(runtime.threads)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return device


def describe(runtime: Runtime, device: torch.device) -> dict[str, str | int]:
    """The parts of the runtime that can change results by rounding."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    packages = {package: version(package) for package in ("torch", "torchvision", "numpy", "scipy", "pillow", "timm")}
    return {"device": name, "threads": runtime.threads, "compile": int(runtime.compile), **packages}


def peak_memory(device: torch.device) -> int:
    """Bytes: the peak of allocated memory on a GPU, otherwise the peak resident set of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
