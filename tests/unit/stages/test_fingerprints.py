"""Digests of code: what changes them and what does not."""

import ast

import pytest

from stages import fingerprints
from stages.fingerprints import Sources

MODULE = '''"""About the module."""

from proj.lower import scale

LIMIT = 3  # of images


def double(x: int) -> int:
    """Twice ``x``."""
    return scale(x, 2)


class Group:
    """Parameters."""

    size: int = key(4, "size of it", low=1)
'''


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A package of its own: ``proj.upper`` imports ``proj.lower``; ``proj.other`` stands alone."""
    folder = tmp_path / "proj"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "upper.py").write_text(MODULE)
    (folder / "lower.py").write_text("def scale(x, by):\n    return x * by\n")
    (folder / "other.py").write_text("A = 1\n")
    monkeypatch.setattr(fingerprints, "ROOTS", {"proj": tmp_path})
    fingerprints._source.cache_clear()
    yield folder
    fingerprints._source.cache_clear()


def digest(*modules: str) -> str:
    return Sources(None).digest(modules or ("proj.upper",))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("About the module.", "On this module."),
        ("  # of images", ""),
        ('    """Twice ``x``."""\n', ""),
        ("return scale(x, 2)", "return scale(\n        x,\n        2,\n    )"),
        ("\n\n\nclass", "\n\n\n\n# A class\nclass"),
        ('"size of it"', '"how large it is"'),
        ('(4, "size of it", low=1)', '(4, low=1, meaning="how large it is")'),
    ],
)
def test_comments_docstrings_formatting_and_meanings_do_not_count(project, old, new):
    before = digest()
    assert old in MODULE
    (project / "upper.py").write_text(MODULE.replace(old, new))
    assert digest() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("LIMIT = 3", "LIMIT = 4"), ("(x, 2)", "(x, 2.0)"), ("key(4", "key(5"), ("low=1", "low=2"), ("x: int", "y: int")],
)
def test_everything_else_counts(project, old, new):
    before = digest()
    assert old in MODULE
    (project / "upper.py").write_text(MODULE.replace(old, new, 1))
    assert digest() != before


def test_imported_modules_count_and_others_do_not(project):
    before, lower = digest(), digest("proj.lower")
    (project / "other.py").write_text("A = 2\n")
    assert digest() == before
    (project / "lower.py").write_text("def scale(x, by):\n    return by * x\n")
    assert digest() != before and digest("proj.lower") != lower


@pytest.mark.parametrize(
    "line", ["import proj.other", "from proj import other", "from . import other", "from .other import A"]
)
def test_every_form_of_import_is_followed_also_inside_functions(project, line):
    (project / "upper.py").write_text(f"def f():\n    {line}\n")
    assert Sources(None).closure(["proj.upper"]) == ["proj", "proj.other", "proj.upper"]


def test_imports_for_type_checkers_are_not_followed(project):
    (project / "upper.py").write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import proj.other\n")
    assert "proj.other" not in Sources(None).closure(["proj.upper"])


def test_imports_in_a_circle_end(project):
    (project / "lower.py").write_text("import proj.upper\n")
    assert Sources(None).closure(["proj.lower"]) == ["proj", "proj.lower", "proj.upper"]


def test_kept_digests_are_those_computed_anew(project, tmp_path):
    cache = tmp_path / "code.json"
    sources = Sources(cache)
    first = sources.digest(["proj.upper"])
    sources.save()
    assert Sources(cache).digest(["proj.upper"]) == first
    (project / "lower.py").write_text("def scale(x, by):\n    return x + by\n")
    assert Sources(cache).digest(["proj.upper"]) == digest() != first
    cache.write_text("{")
    assert Sources(cache).digest(["proj.upper"]) == digest()


def test_text_of_a_tree_leaves_out_fields_that_only_some_versions_of_python_have():
    tree = ast.parse("def f(): return None")
    function = tree.body[0]
    written = fingerprints._write_out(tree)
    function.type_params = []  # type: ignore[attr-defined] # what 3.12 adds
    assert fingerprints._write_out(tree) == written
