"""The check of the whole file before a stage starts: what it takes, and what it remembers."""

import pytest

import longtail.params
from longtail.core.errors import ConfigError
from longtail.core.yaml import parse_yaml
from stages import context
from tests.imports import ROOT


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(changes: str) -> dict:
    return parse_yaml((ROOT / "params.yaml").read_text() + changes)


@pytest.mark.parametrize("odd", ["1: 2", "null: 2", "true: 2", "2024-01-01: 2", "? [a]\n: 2"])
def test_key_that_is_no_text_is_refused_in_one_sentence(odd):
    with pytest.raises(ConfigError, match="is not a key"):
        context.check_file(content(odd))


def test_accepted_file_is_not_checked_again_until_it_changes(monkeypatch):
    checked = []
    monkeypatch.setattr(longtail.params, "check_params", checked.append)
    for given in (content(""), content(""), content("") | {"seed": 3}, content("") | {"seed": "3"}):
        context.check_file(given)
    assert [given["seed"] for given in checked] == [0, 3, "3"]


def test_refused_file_is_refused_again():
    for _ in range(2):
        with pytest.raises(ConfigError, match="seed must be at least 0"):
            context.check_file(content("") | {"seed": -1})


def test_damaged_verdict_is_replaced():
    context.check_file(content(""))
    context.CHECKED.write_text("{")
    context.check_file(content(""))
    assert context.CHECKED.read_text().startswith('{"passed"')
