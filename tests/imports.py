"""The import graph of this repository, read from the source: every import statement, also those inside functions."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("longtail", "stages")


def source_of(module: str) -> Path | None:
    """The file of a module of this repository, relative to its top, or None."""
    base = ROOT.joinpath(*module.split("."))
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate.relative_to(ROOT)
    return None


@cache
def imported_by(module: str) -> frozenset[str]:
    """Modules of this repository that ``module`` imports itself; type-checking blocks do not count."""
    path = source_of(module)
    assert path is not None, module
    found: set[str] = set()
    for node in _statements(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name for name in submodules if source_of(name)} or {node.module}
    return frozenset(name for name in found if name.split(".")[0] in PACKAGES and source_of(name))


def reachable(*modules: str) -> set[str]:
    """All modules of this repository that importing ``modules`` may import, themselves included."""
    seen: set[str] = set()
    pending = list(modules)
    while pending:
        module = pending.pop()
        if module not in seen:
            seen.add(module)
            pending += imported_by(module)
    return seen


def _statements(tree: ast.AST):  # type: ignore[no-untyped-def]
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield node
        yield from _statements(node)
