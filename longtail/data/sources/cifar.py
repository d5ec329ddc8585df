"""CIFAR-10 and CIFAR-100 through torchvision, which downloads them once and checks their digests."""

from pathlib import Path

import numpy as np

from longtail.core.errors import DataError
from longtail.data.sources.base import Source

ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def load(dataset: str, root: Path) -> Source:
    """Read the official train and test parts from ``root``, after a download if they are not there.

    Raises:
        DataError: ``root`` has no usable archive and the download failed; the message names the file to put there.
    """
    from torchvision import datasets

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[dataset]
    if not root.is_dir():
        raise DataError(f"data_root must be a folder, which holds or receives {ARCHIVES[dataset]}, got {root}")
    try:
        parts = [kind(str(root), train=train, download=True) for train in (True, False)]
    # URLError and timeouts are OSErrors; torchvision reports a wrong digest as RuntimeError.
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"dataset: {dataset} is not in {root} and could not be downloaded ({error}); put {ARCHIVES[dataset]} "
            f"there, or set data_root to the folder that has it"
        ) from error
    train, test = parts
    return Source(
        class_names=tuple(train.classes),
        labels=np.asarray([*train.targets, *test.targets], np.int64),
        parts=np.asarray(["train"] * len(train.targets) + ["test"] * len(test.targets)),
        images=np.concatenate([train.data, test.data]),
    )
