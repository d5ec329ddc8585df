"""Safe YAML 1.2: ``1e-4`` is a number, ``off`` and ``no`` are text, a duplicate key is an error."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import YAMLError

from longtail.core.errors import ConfigError


def parse_yaml(text: str, name: str = "text") -> Any:
    """Parse one document.

    Raises:
        ConfigError: not valid YAML, or a key that is given twice. ``name`` says where.
    """
    try:
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        assert error.problem_mark is not None
        duplicate = str(error.problem).partition('"')[2].partition('"')[0]
        line = error.problem_mark.line + 1
        raise ConfigError(f"{name} must give each key once, got {duplicate!r} twice (line {line})") from error
    except (YAMLError, ValueError) as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ConfigError: missing, not UTF-8, not valid YAML, or not a mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path} is missing; run from the top of the repository")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    content = parse_yaml(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values, got {type(content).__name__}")
    return content
