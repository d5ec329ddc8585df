"""CIFAR-10 and CIFAR-100 through torchvision, which downloads them once and checks their digests."""

from pathlib import Path

import numpy as np

from longtail.core.errors import DataError
from longtail.data.sources import SourceEntry
from longtail.data.sources.base import Source

ARCHIVES = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def load_cifar(dataset: str, data_root: str | None, downloads: Path) -> Source:
    """Read the official train and test parts, after a download if need be.

    Args:
        dataset: ``cifar10`` or ``cifar100``.
        data_root: folder of the archive; None for ``downloads``, which is created.

    Raises:
        DataError: ``root`` has no usable archive and the download failed; the message names the file to put there.
    """
    from torchvision import datasets

    root = downloads if data_root is None else Path(data_root)
    if data_root is None:
        root.mkdir(parents=True, exist_ok=True)
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


SOURCE = SourceEntry(
    load=lambda params, downloads: load_cifar("cifar10", params.data_root, downloads), image_shape=(32, 3)
)
