"""CIFAR-100 through torchvision; see ``cifar10``."""

from longtail.data.sources import SourceEntry
from longtail.data.sources.cifar10 import load_cifar

SOURCE = SourceEntry(
    load=lambda params, downloads: load_cifar("cifar100", params.data_root, downloads), image_shape=(32, 3)
)
