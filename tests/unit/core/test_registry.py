"""Registries: modules that declare an entry are found by name, and nothing is imported before it is asked for."""

import subprocess
import sys

import pytest

from longtail.core.errors import ConfigError
from longtail.core.registry import Registry
from tests.imports import ROOT


@pytest.fixture
def registry(tmp_path, monkeypatch) -> Registry:
    package = tmp_path / "some_methods"
    (package / "packaged").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "late.py").write_text("from types import SimpleNamespace\nENTRY = SimpleNamespace(rank=2)\n")
    (package / "early.py").write_text("from types import SimpleNamespace\nENTRY: object = SimpleNamespace(rank=1)\n")
    (package / "packaged" / "__init__.py").write_text("ENTRY = 5\n")
    (package / "helper.py").write_text("def f():\n    ENTRY = 1\n")
    (package / "broken.py").write_text("ENTRY = 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Registry("some_methods", "ENTRY", "method")
    for name in [name for name in sys.modules if name.startswith("some_methods")]:
        del sys.modules[name]


def test_modules_that_assign_the_attribute_are_the_entries(registry):
    assert registry.available() == ["broken", "early", "late", "packaged"]
    assert registry.get("packaged") == 5
    assert registry.module("packaged") == "some_methods.packaged"
    assert "helper" not in registry and "early" in registry


def test_listing_names_imports_no_entry(registry):
    registry.available()
    registry.get("late")
    assert "some_methods.broken" not in sys.modules and "some_methods.early" not in sys.modules


def test_names_are_in_the_order_of_their_ranks(registry, tmp_path):
    (tmp_path / "some_methods" / "broken.py").unlink()
    assert registry.names() == ["packaged", "early", "late"]
    assert list(registry.entries()) == registry.names()


def test_unknown_name_is_refused_with_all_there_are(registry):
    with pytest.raises(ConfigError, match="method must be one of broken, early, late, packaged, got 'other'"):
        registry.get("other")


@pytest.mark.parametrize(
    "module", ["longtail.methods.heads", "longtail.methods.objectives", "longtail.methods.pretraining",
               "longtail.augment.policies", "longtail.data.sources", "longtail.methods.stage_methods"]
)  # fmt: skip
def test_every_entry_can_be_declared_without_torch(module):
    code = (
        "import sys, importlib\nfrom longtail.core.registry import Registry\n"
        f"module = importlib.import_module({module!r})\n"
        "found = [value for value in vars(module).values() if isinstance(value, Registry)]\n"
        "assert found\n"
        "[registry.entries() for registry in found]\nsys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
