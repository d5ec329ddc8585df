"""Pretraining of the backbone. One package per method, each with its entry as ``PRETRAINING``."""

from dataclasses import dataclass

from longtail.core.registry import Registry
from longtail.methods.implementation import Implemented


@dataclass(frozen=True, kw_only=True)
class PretrainingEntry(Implemented):
    """A pretraining method.

    Attributes:
        views: augmented views per image that it sees.
        augment: style of augmentation that ``pretrain.augment: auto`` means (see ``longtail.augment``).
    """

    views: int = 1
    augment: str = "plain"


METHODS: Registry[PretrainingEntry] = Registry("longtail.methods.pretraining", "PRETRAINING", "pretrain.method")
