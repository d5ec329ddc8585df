"""Entries whose implementation needs torch name it, so that the entry itself can be read without torch."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longtail.core.params import Group, bind, unknown_key
from longtail.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Implemented:
    """Base of such entries.

    Attributes:
        implementation: ``module:name`` of the class that does the work.
        params: the group of its own parameters, or None.
    """

    implementation: str
    params: type[Group] | None = None

    @property
    def module(self) -> str:
        """Full name of the module of the implementation."""
        return self.implementation.partition(":")[0]

    def load(self) -> Any:
        """Import the implementation."""
        return getattr(importlib.import_module(self.module), self.implementation.partition(":")[2])


def bind_own(registry: Registry[Any], name: str, path: str, content: Mapping[str, Any]) -> Group | None:
    """The own parameters of the entry ``name``, from the group ``path`` that holds one group per entry.

    Returns:
        None for an entry without parameters.
    """
    kind = registry.get(name).params
    if kind is None:
        if name in content:
            raise unknown_key(f"{path}.{name}", name, own_groups(registry))
        return None
    return bind(kind, content.get(name, {}))


def own_groups(registry: Registry[Any]) -> list[str]:
    """Names of the entries that have parameters of their own."""
    return [name for name, entry in registry.entries().items() if entry.params is not None]
