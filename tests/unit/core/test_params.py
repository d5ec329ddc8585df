"""How parameters are declared, bound and checked, on groups that are made up for it."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pytest

from longtail.core.errors import ConfigError
from longtail.core.params import (
    Auto,
    Group,
    bind,
    check_given,
    defaults_of,
    describe,
    describe_range,
    group,
    key,
    keys_of,
    not_with,
    only_with,
    refuse,
    replace,
    show,
    type_of,
    unknown_key,
)


@dataclass(frozen=True, kw_only=True)
class Inner(Group):
    path: ClassVar[str] = "outer.inner"

    depth: int = key(2, "how deep", low=1)
    note: str | None = key(None, "a remark")


@dataclass(frozen=True, kw_only=True)
class Outer(Group):
    path: ClassVar[str] = "outer"

    mode: Literal["fast", "slow"] = key("fast", "how")
    rate: float = key(0.5, "how much", above=0, below=1, unused=only_with(mode="slow"))
    share: float | Auto = key("auto", "of all", low=0, high=1, unused=only_with(mode=("slow", "medium")))
    steps: int = key(3, "how often", low=1, high=9, hint=lambda value: f"{value} is not enough")
    marks: list[int] | Auto = key("auto", "where")
    fruit: str = key("apple", "which", choices=lambda: ["apple", "banana", "cherry"])
    code: str | None = key(None, "a code", pattern=("[a-z]{3}", "three small letters"))
    shown: bool = key(True, "whether")
    limit: int | Literal["auto", "all"] = key("auto", "at most", low=1)
    inner: Inner = group(Inner, unused=only_with(mode="slow"))

    def check(self) -> None:
        self.require("steps", self.steps != 7, "any number but 7")

    def inactive(self) -> str:
        return "fruit: cherry" if self.fruit == "cherry" else ""


def refusal(**values: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        Outer(**values)
    return str(caught.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mode": "medium"}, "outer.mode must be one of fast, slow, got medium"),
        ({"mode": True}, "outer.mode must be one of fast, slow, got true"),
        ({"mode": None}, "outer.mode must be one of fast, slow, got null"),
        ({"mode": np.array(["fast", "slow"])}, "outer.mode must be one of fast, slow, got \\['fast' 'slow'\\]"),
        ({"rate": 0}, "outer.rate must be above 0 and below 1, got 0"),
        ({"rate": 1.0}, "outer.rate must be above 0 and below 1, got 1"),
        ({"rate": 1.0000001}, "outer.rate must be above 0 and below 1, got 1.0000001"),
        ({"rate": "0.5"}, "outer.rate must be a finite number, got '0.5'"),
        ({"rate": float("inf")}, "outer.rate must be a finite number, got inf"),
        ({"rate": 10**400}, f"outer.rate must be a finite number, got {10**400}"),
        ({"rate": False}, "outer.rate must be a finite number, got false"),
        ({"share": "all"}, "outer.share must be a finite number or auto, got all"),
        ({"share": 1.5}, "outer.share must be at least 0 and at most 1, got 1.5"),
        ({"share": np.array([0.5, 0.25])}, "outer.share must be a finite number or auto, got \\[0.5  0.25\\]"),
        ({"steps": 2.5}, "outer.steps must be a whole number, got 2.5 \\(2.5 is not enough\\)"),
        ({"steps": 0}, "outer.steps must be at least 1 and at most 9, got 0 \\(0 is not enough\\)"),
        ({"steps": True}, "outer.steps must be a whole number, got true \\(True is not enough\\)"),
        ({"steps": 7}, "outer.steps must be any number but 7, got 7"),
        ({"marks": 5}, "outer.marks must be a list of whole numbers or auto, got 5"),
        ({"marks": [1, True]}, "outer.marks must be a list of whole numbers or auto, got \\[1, true\\]"),
        ({"marks": ["1"]}, "outer.marks must be a list of whole numbers or auto, got \\['1'\\]"),
        ({"fruit": "aple"}, "outer.fruit must be one of apple, banana, cherry, got aple \\(did you mean apple\\?\\)"),
        ({"fruit": "zzz"}, "outer.fruit must be one of apple, banana, cherry, got zzz"),
        ({"fruit": 5}, "outer.fruit must be one of apple, banana, cherry, got 5"),
        ({"code": "ab"}, "outer.code must be three small letters, got ab"),
        ({"shown": 1}, "outer.shown must be true or false, got 1"),
        ({"shown": "true"}, "outer.shown must be true or false, got 'true'"),
        ({"limit": "none"}, "outer.limit must be a whole number or one of auto, all, got none"),
        ({"inner": {"depth": 3}}, "outer.inner must be a group of keys, got {depth: 3}"),
        ({"inner": None}, "outer.inner must be a group of keys, got null"),
    ],
)
def test_object_refuses_a_bad_value_with_key_expected_and_given(values, message):
    assert refusal(**values) == message.replace("\\", "")


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ({"steps": 2.0}, int, 2),
        ({"steps": np.int32(2)}, int, 2),
        ({"steps": np.float64(2.0)}, int, 2),
        ({"rate": np.float32(0.25)}, float, 0.25),
        ({"share": 1}, float, 1.0),
        ({"share": np.int64(0)}, float, 0.0),
        ({"shown": np.bool_(False)}, bool, False),
        ({"mode": np.str_("slow")}, str, "slow"),
        ({"fruit": np.str_("cherry")}, str, "cherry"),
        ({"marks": [1.0, 2]}, list, [1, 2]),
        ({"limit": 4}, int, 4),
        ({"limit": "all"}, str, "all"),
    ],
)
def test_numpy_and_whole_floats_become_the_declared_type(values, kind, expected):
    ((name, _),) = values.items()
    found = getattr(Outer(**values), name)
    assert type(found) is kind and found == expected
    if kind is list:
        assert [type(item) for item in found] == [int, int]


@pytest.mark.parametrize("value", [np.bool_(True), np.True_])
def test_numpy_boolean_is_no_number(value):
    assert refusal(rate=value) == "outer.rate must be a finite number, got true"


def test_object_cannot_be_changed_and_replace_checks_again():
    made = Outer()
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.steps = 4  # type: ignore[misc]
    assert replace(made, steps=4.0).steps == 4
    with pytest.raises(ConfigError, match=r"outer\.steps must be at least 1 and at most 9, got 10"):
        replace(made, steps=10)


# Binding


def test_keys_that_are_left_out_keep_their_defaults():
    assert bind(Outer, {"inner": {"depth": 5}}) == Outer(inner=Inner(depth=5))
    assert bind(Outer, {}) == Outer()


def test_keys_of_others_are_passed_over():
    assert bind(Outer, {"steps": 2, "other": {"anything": 1}}, ["other"]) == Outer(steps=2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"stepps": 1}, "outer.stepps is not a key (did you mean outer.steps?); allowed here: "),
        ({"qqq": 1}, "outer.qqq is not a key; allowed here: "),
        ({1: 1}, "outer.1 is not a key; allowed here: "),
        ({None: 1}, "outer.null is not a key; allowed here: "),
        ({("a",): 1}, "outer.('a',) is not a key; allowed here: "),
        ({"inner": {"dept": 1}}, "outer.inner.dept is not a key (did you mean outer.inner.depth?); allowed here: "),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_one(content, message):
    with pytest.raises(ConfigError) as caught:
        bind(Outer, content)
    assert str(caught.value).startswith(message)


def test_unknown_key_lists_all_that_are_allowed_with_those_of_others():
    with pytest.raises(ConfigError, match=r"allowed here: code, .*, other, .*, steps"):
        bind(Outer, {"qqq": 1}, ["other"])
    assert str(unknown_key("x", "x", [])) == "x is not a key; allowed here: nothing"


@pytest.mark.parametrize("content", [None, 5, "text", [1], True])
def test_group_that_is_no_mapping_is_refused(content):
    with pytest.raises(ConfigError) as caught:
        bind(Outer, content)
    assert str(caught.value) == f"outer must be a group of keys, got {show(content)}"


# Given without effect


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.25}, "outer.rate must be 0.5, its default, since it has no effect with outer.mode: fast, got 0.25"),
        ({"share": 0}, "outer.share must be auto, its default, since it has no effect with outer.mode: fast, got 0"),
        (
            {"inner": Inner(depth=4)},
            "outer.inner.depth must be 2, its default, since it has no effect with outer.mode: fast, got 4",
        ),
        (
            {"fruit": "cherry", "steps": 4},
            "outer.steps must be 3, its default, since it has no effect with outer.fruit: cherry, got 4",
        ),
    ],
)
def test_key_that_is_given_without_effect_is_refused(values, message):
    with pytest.raises(ConfigError) as caught:
        check_given(Outer(**values))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"rate": 0.5},
        {"share": "auto", "inner": Inner(depth=2)},
        {"mode": "slow", "rate": 0.25, "share": 0.5, "inner": Inner(depth=4)},
        {"steps": 4},
        {"fruit": "cherry"},
    ],
)
def test_defaults_and_keys_with_an_effect_are_never_refused(values):
    check_given(Outer(**values))


def test_rule_names_the_sibling_that_is_to_blame():
    rule = only_with(mode=("slow", "medium"), steps=3)
    assert rule(Outer(mode="slow")) == ""
    assert rule(Outer()) == "mode: fast"
    assert rule(Outer(mode="slow", steps=4)) == "steps: 4"
    opposite = not_with(mode="slow", steps=(4, 5))
    assert opposite(Outer()) == ""
    assert opposite(Outer(mode="slow")) == "mode: slow"
    assert opposite(Outer(steps=5)) == "steps: 5"


# Declarations


def test_declaration_is_read_back():
    assert list(keys_of(Outer))[:3] == ["mode", "rate", "share"]
    assert keys_of(Outer)["rate"].meaning == "how much"
    assert defaults_of(Outer)["inner"] == {"depth": 2, "note": None}
    assert type_of(Outer, "steps") is int
    assert describe_range(keys_of(Outer)["rate"]) == "above 0 and below 1"
    assert describe_range(keys_of(Outer)["mode"]) == ""
    assert describe(type_of(Outer, "limit")) == "a whole number or one of auto, all"
    assert describe(type_of(Outer, "code"), keys_of(Outer)["code"]) == "three small letters or null"
    assert Outer().full_name("steps") == "outer.steps"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "null"),
        (True, "true"),
        (3, "3"),
        (2**63, "9223372036854775808"),
        (0.1, "0.1"),
        (1e-4, "0.0001"),
        (1e9, "1e+09"),
        (0.9999999, "0.9999999"),
        (16777217.0, "16777217.0"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        ("auto", "auto"),
        ("10*n_min", "10*n_min"),
        ("a b", "'a b'"),
        ("", "''"),
        ("10", "'10'"),
        ("1e-4", "'1e-4'"),
        (".5", "'.5'"),
        ("true", "'true'"),
        ("NULL", "'NULL'"),
        ("~", "'~'"),
        (".NaN", "'.NaN'"),
        ("-.inf", "'-.inf'"),
        ("data/raw", "data/raw"),
        ([1, True, "1", None], "[1, true, '1', null]"),
    ],
)
def test_value_is_shown_as_it_is_written(value, shown):
    assert show(value) == shown


def test_refusal_may_carry_a_remark():
    assert str(refuse("a.b", "c", 1)) == "a.b must be c, got 1"
    assert str(refuse("a.b", "c", 1, "d")) == "a.b must be c, got 1 (d)"
