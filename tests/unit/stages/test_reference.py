"""The reference of parameters in the docs is the one that the declarations give."""

from longtail.params import defaults
from stages.reference import reference
from tests.imports import ROOT
from tests.unit.test_params import leaves


def test_page_is_the_generated_one():
    page = (ROOT / "docs" / "parameters.md").read_text()
    assert page == reference(), "run `python -m stages.reference > docs/parameters.md`"


def test_page_has_a_row_for_every_key():
    page = reference()
    for key, value in leaves(defaults()).items():
        assert f"| `{key}` |" in page or value == {}, key
