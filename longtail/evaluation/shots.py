"""The groups of classes: many, medium and few."""

from dataclasses import dataclass
from typing import ClassVar

from longtail.core.params import Group, key


@dataclass(frozen=True, kw_only=True)
class Shots(Group):
    """Limits of the groups: many > ``many_above``, few < ``few_below`` training images, medium in between.

    Published variants: Decoupling 100 and 20 (the default), OLTR 99 and 21, FSGL 100 and 21, BNS on CIFAR-10 500
    and 200.
    """

    path: ClassVar[str] = "shots"

    many_above: int = key(100, "a class with more training images belongs to many", low=0)
    few_below: int = key(20, "a class with fewer training images belongs to few", low=0)

    def check(self) -> None:
        self.require(
            "few_below",
            self.few_below <= self.many_above + 1,
            f"at most shots.many_above + 1 = {self.many_above + 1}, so that no class is both many and few",
        )
