"""Digests of the code that each stage reaches, so that DVC re-runs a stage when its code changes, and only then.

The digest of a stage covers its import closure: the modules of this project that it imports, directly or through
others, read from the syntax trees. Methods that are chosen by name, such as the objective, are imported by name, only
when they are used. They count for the parameters at hand (see ``Group.modules``). Comments, docstrings, formatting and
the meanings of parameters do not count.
"""

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import longtail
import stages
from longtail.artifacts.atomic import atomic_open
from stages.paths import SCRATCH

ROOTS = {
    name: Path(str(package.__file__)).parent.parent for name, package in (("longtail", longtail), ("stages", stages))
}
CACHE = SCRATCH / "code.json"


class Sources:
    """The project's modules: what each imports, and the digest of its syntax tree.

    Args:
        cache: file that keeps what was found, keyed by the digest of each source file; None keeps nothing.
    """

    def __init__(self, cache: Path | None = CACHE) -> None:
        self._cache = cache
        self._known: dict[str, Any] = _read_cache(cache)
        self._used: dict[str, Any] = {}

    def imports(self, module: str) -> list[str]:
        """The modules of this project that ``module`` itself imports, sorted."""
        found: list[str] = self._look(module)["imports"]
        return found

    def closure(self, modules: Iterable[str]) -> list[str]:
        """All modules that importing ``modules`` may import, themselves and their packages included, sorted."""
        found: set[str] = set()
        pending = list(modules)
        while pending:
            module = pending.pop()
            if module in found:
                continue
            found.add(module)
            parent = module.rpartition(".")[0]
            pending += [*([parent] if parent else []), *self.imports(module)]
        return sorted(found)

    def digest(self, modules: Iterable[str]) -> str:
        """SHA-256 over the syntax trees of the closure of ``modules``."""
        total = hashlib.sha256()
        for module in self.closure(modules):
            total.update(f"{module} {self._look(module)['digest']}\n".encode())
        return total.hexdigest()

    def save(self) -> None:
        """Keep what was found for the next process."""
        if self._cache is not None and self._used != self._known:
            with atomic_open(self._cache) as file:
                file.write(json.dumps(self._used, sort_keys=True))

    def _look(self, module: str) -> dict[str, Any]:
        content = _source(module).read_bytes()
        key = hashlib.sha256(f"{_own_source()} {module}\n".encode() + content).hexdigest()
        if key not in self._used:
            self._used[key] = self._known.get(key) or _examine(module, content)
        return self._used[key]


def everything() -> str:
    """SHA-256 over the bytes of all source files of the project."""
    total = hashlib.sha256()
    for name, root in ROOTS.items():
        for path in sorted((root / name).rglob("*.py")):
            total.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return total.hexdigest()


@cache
def _own_source() -> str:
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def _read_cache(path: Path | None) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path is not None and path.is_file() else {}
    except ValueError:  # cut off or edited: the trees are read anew
        return {}


@cache
def _source(module: str) -> Path:
    base = ROOTS[module.partition(".")[0]].joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def _exists(module: str) -> bool:
    return module.partition(".")[0] in ROOTS and _source(module).is_file()


def _examine(module: str, content: bytes) -> dict[str, Any]:
    tree = ast.parse(content)
    imports = sorted(name for name in set(_imports(tree, module)) if _exists(name) and name != module)
    plain = _write_out(_WithoutWords().visit(tree))
    return {"imports": imports, "digest": hashlib.sha256(plain.encode()).hexdigest()}


def _write_out(node: Any) -> str:
    """The tree as text. Empty fields are left out: which of them exist depends on the version of Python."""
    if isinstance(node, list):
        return f"[{' '.join(map(_write_out, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [f"{name}={_write_out(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
    return f"{type(node).__name__}({' '.join(fields)})"


def _imports(tree: ast.AST, module: str) -> Iterator[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module if _source(module).name == "__init__.py" else module.rpartition(".")[0]
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *([base] if base else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those of blocks that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        yield node
        yield from _statements(node)


class _WithoutWords(ast.NodeTransformer):
    """Removes docstrings, other strings that stand alone, and the meanings of parameters."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                one
                for one in body
                if not (
                    isinstance(one, ast.Expr)
                    and isinstance(one.value, ast.Constant)
                    and isinstance(one.value.value, str)
                )
            ] or [ast.Pass()]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "key":
            node.args = node.args[:1]
            node.keywords = [keyword for keyword in node.keywords if keyword.arg not in ("meaning", "published")]
        return node
