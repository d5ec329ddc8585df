"""Published settings: ``python -m stages.recipe NAME`` lays ``recipes/NAME.yaml`` over params.yaml.

This is not a stage of the DAG. Without a name it lists the recipes. With ``--show`` it changes nothing. Comments and
order of params.yaml stay the same.

A recipe that names the dataset starts from the defaults of all keys except ``seed`` and ``runtime``, so nothing of an
earlier recipe remains. Any other recipe resets only the groups that it names.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from longtail.artifacts.atomic import atomic_open
from longtail.core.errors import ConfigError
from longtail.core.params import refuse
from longtail.core.yaml import parse_yaml, read_yaml
from longtail.params import check_params, defaults
from stages.context import run

RECIPES = Path(__file__).parent.parent / "recipes"
KEYS = {"source", "aim", "params"}
KEPT = {"seed", "runtime"}
WHOLE = {"class_counts"}  # a mapping that is one value


def names() -> list[str]:
    """All recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def read_recipe(name: str) -> dict[str, Any]:
    """``source`` and ``aim`` (text) and ``params``, an overlay on params.yaml.

    Raises:
        ConfigError: no such recipe, or one with other keys.
    """
    if name not in names():
        raise refuse("recipe", f"one of {', '.join(names())}", name)
    recipe = parse_yaml((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    if set(recipe) != KEYS:
        expected, given = (", ".join(sorted(keys)) for keys in (KEYS, recipe))
        raise ConfigError(f"recipes/{name}.yaml must have the keys {expected}, got {given}")
    return recipe


def flat(params: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """``group.key`` and value of every leaf."""
    for key, value in params.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def overlay(params: dict[str, Any], changes: dict[str, Any]) -> None:
    """Lay ``changes`` over ``params`` in place, group by group. Equal values keep their notation."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(params.get(key), dict):
            overlay(params[key], value)
        elif key not in params or params[key] != value:
            params[key] = value


def parse_setting(text: str) -> tuple[str, Any]:
    """Full name and value of a setting ``group.key=value``; the value is YAML.

    Raises:
        ConfigError: the text has another form.
    """
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--set must be KEY=VALUE, such as imb_type=exp, got {text}")
    return name, parse_yaml(f"value: {value}")["value"]


def assign(params: dict[str, Any], name: str, value: Any) -> None:
    """Set ``group.key`` in nested parameters, in place. A group is laid over the one that is there.

    Raises:
        ConfigError: a part of the name is a key with a value, not a group.
    """
    *path, last = name.split(".")
    for part in path:
        params = params.setdefault(part, {})
        if not isinstance(params, dict):
            raise ConfigError(f"--set must name a key of params.yaml, got {name}")
    if last in WHOLE:
        params[last] = value
    else:
        overlay(params, {last: value})


def with_defaults(changes: dict[str, Any]) -> dict[str, Any]:
    """``changes`` laid over the defaults that they start from."""
    start = {
        key: value for key, value in defaults().items() if key not in KEPT and ("dataset" in changes or key in changes)
    }
    overlay(start, changes)
    return start


def apply(name: str, path: Path, show: bool = False, further: dict[str, Any] | None = None) -> list[str]:
    """Apply a recipe to the params.yaml at ``path``. Returns the changes as lines ``key: old -> new``.

    Args:
        name: the recipe.
        path: params.yaml.
        show: change nothing.
        further: an overlay on the recipe.

    Raises:
        ConfigError: params.yaml is missing or not valid before or after the change. The file is not changed.
    """
    recipe = read_recipe(name)
    check_params(read_yaml(path))
    text = path.read_text(encoding="utf-8")
    before = dict(flat(parse_yaml(text)))
    yaml = YAML()
    document = yaml.load(text)
    changes = with_defaults(recipe["params"])
    overlay(changes, further or {})
    overlay(document, changes)
    stream = io.StringIO()
    yaml.dump(document, stream)
    changed = parse_yaml(stream.getvalue())
    check_params(changed)
    if not show:
        with atomic_open(path) as file:
            file.write(stream.getvalue())
    after = dict(flat(changed))
    return [f"{key}: {before.get(key)} -> {value}" for key, value in after.items() if before.get(key) != value]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.recipe", description="Lay a recipe over params.yaml.")
    parser.add_argument("name", nargs="?", help="; ".join(names()))
    parser.add_argument("--show", action="store_true", help="change nothing")
    options = parser.parse_args(arguments)
    if options.name is None:
        for name in names():
            print(f"{name}: {read_recipe(name)['aim']}")
        return
    recipe = read_recipe(options.name)
    lines = apply(options.name, Path("params.yaml"), options.show)
    print(f"{options.name}: {recipe['aim']} ({recipe['source']})")
    print("\n".join(lines) if lines else "params.yaml has these settings already")


if __name__ == "__main__":
    run(main)
