"""The reference of all parameters, made from their declarations.

``python -m stages.reference > docs/parameters.md`` writes it; a test compares the two.
"""

import inspect
from collections.abc import Iterator
from typing import Any

from longtail.core.params import Group, Key, describe, describe_range, keys_of, show, type_of
from longtail.methods.implementation import own_groups
from longtail.params import EXTENDED, TOP_LEVEL, groups

INTRODUCTION = """\
# Parameters

All keys of `params.yaml`. This page is generated from their declarations: `python -m stages.reference`.

`dvc exp run -S KEY=VALUE` changes one for a run, for example `-S crt.epochs=20`. Editing the file and running
`dvc repro` does the same. The first stage checks the whole file before any work starts. It refuses an unknown key, a
wrong type, a value out of range, values that contradict each other, and a key that is given although it has no effect.
Numbers follow YAML 1.2, so `1e-4` is a number.
"""


def reference() -> str:
    """The whole page, in Markdown."""
    parts = [INTRODUCTION, "## Top level\n"]
    for kind in TOP_LEVEL:
        parts += [_paragraph(kind), _table(list(_rows(kind)))]
    for name, kind in groups().items():
        parts += [f"## `{name}`\n", _paragraph(kind)]
        rows = list(_rows(kind))
        if rows:
            parts.append(_table(rows))
        if name in EXTENDED:
            registry = EXTENDED[name]
            for own in own_groups(registry):
                own_kind = registry.get(own).params
                parts += [f"### `{own_kind.path}`\n", _paragraph(own_kind), _table(list(_rows(own_kind)))]
    return "\n".join(parts)


def _paragraph(kind: type[Group]) -> str:
    documentation = inspect.getdoc(kind) or ""
    return " ".join(documentation.replace("``", "`").split()) + "\n"


def _rows(kind: type[Group]) -> Iterator[tuple[str, ...]]:
    """Name, default, published values, allowed values and meaning of each key."""
    defaults = vars(kind())
    for name, spec in keys_of(kind).items():
        value, hint = defaults[name], type_of(kind, name)
        if isinstance(value, Group):
            yield from _rows(type(value))
            continue
        full = f"{kind.place()}.{name}" if kind.place() else name
        default = "" if value is None else f"`{show(value)}`"
        yield f"`{full}`", default, spec.published, _allowed(hint, spec), spec.meaning


def _allowed(hint: Any, spec: Key) -> str:
    bounds = describe_range(spec)
    words = describe(hint, spec).replace("one of ", "")
    return words + (f", {bounds}" if bounds else "")


def _table(rows: list[tuple[str, ...]]) -> str:
    """The rows as a table. The column of published values is left out if it is empty."""
    heading: tuple[str, ...] = ("key", "default", "published", "allowed", "meaning")
    if not any(row[2] for row in rows):
        heading, rows = heading[:2] + heading[3:], [row[:2] + row[3:] for row in rows]
    lines = [f"| {' | '.join(heading)} |", "|" + "---|" * len(heading)]
    lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
