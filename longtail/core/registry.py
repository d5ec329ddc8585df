"""Registries: a name stands for a module of one package, and the module declares the entry.

Adding an entry is adding a module. Nothing is imported until its entry is asked for, so a program that uses one method
does not load the others.
"""

import importlib
import re
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from longtail.core.errors import ConfigError

T = TypeVar("T")


class Registry(Generic[T]):
    """All modules of a package that assign ``attribute`` at their top level, by module name.

    Args:
        package: full name of the package whose modules are searched.
        attribute: name that a module assigns its entry to, for example ``HEAD``.
        kind: what an entry is called in errors, for example ``head``.
    """

    def __init__(self, package: str, attribute: str, kind: str) -> None:
        self.package, self.attribute, self.kind = package, attribute, kind

    @cached_property
    def _modules(self) -> dict[str, str]:
        folder = Path(str(importlib.import_module(self.package).__file__)).parent
        assigns = re.compile(rf"^{self.attribute}\b[^=\n]*=", re.MULTILINE)
        found = {}
        for path in sorted([*folder.glob("*.py"), *folder.glob("*/__init__.py")]):
            name = path.parent.name if path.name == "__init__.py" else path.stem
            if path != folder / "__init__.py" and assigns.search(path.read_text(encoding="utf-8")):
                found[name] = f"{self.package}.{name}"
        return found

    def available(self) -> list[str]:
        """All names, alphabetically; no entry is imported."""
        return sorted(self._modules)

    def names(self) -> list[str]:
        """All names, by the rank of their entries where they have one, then alphabetically."""
        return sorted(self._modules, key=lambda name: (getattr(self.get(name), "rank", 0), name))

    def module(self, name: str) -> str:
        """The full name of the module that declares ``name``."""
        if name not in self._modules:
            raise ConfigError(f"{self.kind} must be one of {', '.join(self.available())}, got {name!r}")
        return self._modules[name]

    def get(self, name: str) -> T:
        """The entry called ``name``; its module is imported.

        Raises:
            ConfigError: no module of that name declares an entry.
        """
        entry: Any = getattr(importlib.import_module(self.module(name)), self.attribute)
        return entry

    def entries(self) -> dict[str, T]:
        """All entries by name, in the order of :meth:`names`."""
        return {name: self.get(name) for name in self.names()}

    def __contains__(self, name: object) -> bool:
        return name in self._modules
