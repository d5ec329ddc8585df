"""Objectives of backbone training. One package per objective.

A package declares its entry (``OBJECTIVE``) and its parameters in ``__init__``, without torch, and computes in
``objective``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from longtail.core.registry import Registry
from longtail.methods.implementation import Implemented


@dataclass(frozen=True, kw_only=True)
class ObjectiveEntry(Implemented):
    """An objective of backbone training.

    Attributes:
        views: augmented views per image that it sees.
        second_augment: style of the second view for ``auto`` (see ``longtail.augment.styles``); empty: as the first.
        head: kind of head for ``train.head: auto``.
        heads: kinds of head that it can train.
        weighted: whether it is a loss per row, so that class weights (``train.rule``) and mixing (``train.mix``) apply.
        always_weighted: whether it weights the classes by ``train.beta`` under every rule.
        check: called with the parameters of training and its own parameters; raises if they contradict each other.
    """

    views: int = 1
    second_augment: str = ""
    head: str = "linear"
    heads: tuple[str, ...] = ("linear", "cosine")
    weighted: bool = True
    always_weighted: bool = False
    check: Callable[[Any, Any], None] | None = None


OBJECTIVES: Registry[ObjectiveEntry] = Registry("longtail.methods.objectives", "OBJECTIVE", "train.objective")
