"""Pretraining of the backbone. One package per method, which declares its entry as ``PRETRAINING``."""

from dataclasses import dataclass

from longtail.core.registry import Registry
from longtail.methods.implementation import Implemented


@dataclass(frozen=True, kw_only=True)
class PretrainingEntry(Implemented):
    """A pretraining method.

    Attributes:
        views: augmented views per image that it sees.
        augment: style of augmentation for ``pretrain.augment: auto`` (see ``longtail.augment.styles``).
    """

    views: int = 1
    augment: str = "plain"


NONE, WEIGHTS = "none", "weights"  # values of `pretrain.method` that train nothing
METHODS: Registry[PretrainingEntry] = Registry("longtail.methods.pretraining", "PRETRAINING", "pretrain.method")
