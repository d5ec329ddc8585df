"""What the tests of several kinds of artifacts share: sample contents, damage, and children to kill."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from longtail.artifacts.checkpoints import save_checkpoint
from longtail.artifacts.features import Features, write_features
from longtail.artifacts.hdf5 import write_hdf5
from longtail.artifacts.head_files import HeadFile, write_head
from longtail.artifacts.tables import write_csv, write_json
from longtail.core.head import LinearHead

SCHEMA = "longtail/test/1"
ARRAYS = {
    "scores": np.arange(30, dtype=np.float32).reshape(10, 3),
    "history/loss": np.linspace(1, 0, 5),
    "label": np.arange(10),
    "names": np.array(["Möwe".encode(), b"cat"]),
}
ATTRIBUTES = {"method": "crt", "tau": 0.7, "epochs": 10, "online": False, "empty": ""}
FEATURES = Features(
    features=np.arange(12, dtype=np.float32).reshape(4, 3),
    labels=np.array([0, 1, 0, 1]),
    index=np.array([7, 8, 9, 3]),
    num_classes=2,
    dataset="digits",
    split_digest="abc",
    backbone_digest="def",
    transform="{}",
)
TENSORS = {"weight": torch.arange(12.0).reshape(3, 4), "steps": torch.tensor(5), "mask": torch.tensor([True, False])}
META = {"name": "resnet8", "width": None, "transform": {"mean": [0.5], "policy": "crop"}}


def in_child(work: Callable[[], object], timeout: int = 60) -> int:
    """Run ``work`` in a forked process; its wait status."""
    child = os.fork()
    if child == 0:
        signal.alarm(timeout)
        try:
            work()
        except BaseException:  # noqa: BLE001 - nothing of pytest may run in the child
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


def same(a: object, b: object) -> bool:
    left, right = vars(a), vars(b)
    return left.keys() == right.keys() and all(np.array_equal(left[key], right[key]) for key in left)


def flips(size: int, step: int) -> list[tuple[int, int]]:
    """(byte, bit) positions spread over a file of ``size`` bytes."""
    return [divmod(position, 8) for position in range(0, 8 * size, step)]


def flipped(content: bytes, byte: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[byte] ^= 1 << bit
    return bytes(changed)


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "hdf5": lambda path, n: write_hdf5(path, {"a": np.full(5000, n)}, {"n": n}, schema=SCHEMA),
    "checkpoint": lambda path, n: save_checkpoint(path, {"a": torch.full((5000,), n)}, {"n": n}),
    "csv": lambda path, n: write_csv(path, pd.DataFrame({"a": range(n)})),
    "json": lambda path, n: write_json(path, {"a": n}),
    "head": lambda path, n: write_head(path, HeadFile("crt", LinearHead(np.full((3, 2), n, np.float32)), "s", "b")),
    "features": lambda path, n: write_features(
        path, Features(np.full((4, 2), n, np.float32), np.arange(4), np.arange(4), 4, "digits", "s", "b", "{}")
    ),
}
