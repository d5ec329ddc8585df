"""Reading YAML: scalars of version 1.2, duplicate keys, and files that are none."""

import pytest

from longtail.core.errors import ConfigError
from longtail.core.yaml import parse_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        ("5e-4", 5e-4),
        ("+2e-1", 0.2),
        (".5", 0.5),
        ("2.", 2.0),
        ("010", 10),
        ("-3", -3),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("no", "no"),
        ("n", "n"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("1e", "1e"),
        ("1:30", "1:30"),
        ("0o7", 7),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    parsed = parse_yaml(f"key: {text}")["key"]
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(("content", "key", "line"), [("a: 1\na: 1", "a", 2), ("b:\n  c: 1\n  c: 2", "c", 3)])
def test_duplicate_key_is_refused_with_its_line(content, key, line):
    with pytest.raises(ConfigError) as caught:
        parse_yaml(content, "params.yaml")
    assert str(caught.value) == f"params.yaml must give each key once, got {key!r} twice (line {line})"


def test_missing_file_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"params\.yaml is missing; run from the top of the repository"):
        read_yaml(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"- a",
        b"text",
        b"a: [",
        b"? {a: 1}\n: 1",
        b"seed: 1\n---\nseed: 2",
        b"seed: !!python/object/apply:os.getpid []",
        b"dataset: \xff",
    ],
)
def test_file_that_is_no_mapping_or_no_yaml_is_refused_by_name(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"params\.yaml (is not valid YAML|must hold keys and values)") as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)
