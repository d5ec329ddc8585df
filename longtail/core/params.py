"""Parameters: declared once as dataclass fields, bound strictly, checked wherever an object of them is made.

A group of parameters is a frozen dataclass below :class:`Group`. Each field is a :func:`key` (default, meaning, allowed
range) or a nested :func:`group`. The same declaration serves the loader of params.yaml, the library's own checks (an
object of a group checks itself when it is made) and the reference tables of the docs.

Every error has one form: ``KEY must be EXPECTED, got GIVEN``.
"""

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from longtail.core.errors import ConfigError

Auto = Literal["auto"]
T = TypeVar("T", bound="Group")


@dataclass(frozen=True)
class Key:
    """What is declared of one parameter.

    Attributes:
        meaning: one line for the reference tables.
        published: the values of papers and released code, for the same tables.
        low, high: smallest and largest allowed number.
        above: numbers must be larger than this.
        below: numbers must be smaller than this.
        choices: names that a text value may have, as a function, so that a registry is read only when it is needed.
        pattern: regular expression of a text value, with its description.
        unused: given the group, why this parameter has no effect; empty if it has one.
        hint: given a refused value, a remark that is appended to the error.
    """

    meaning: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: Callable[[], Iterable[str]] | None = None
    pattern: tuple[str, str] | None = None
    unused: "Callable[[Any], str] | None" = None
    hint: Callable[[Any], str] | None = None
    published: str = ""


def key(
    default: Any,
    meaning: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    choices: Callable[[], Iterable[str]] | None = None,
    pattern: tuple[str, str] | None = None,
    unused: Callable[[Any], str] | None = None,
    hint: Callable[[Any], str] | None = None,
    published: str = "",
) -> Any:
    """Declare a parameter of a group; see :class:`Key`. Ranges apply to numbers only, not to ``auto``."""
    return field(
        default=default,
        metadata={"key": Key(meaning, low, high, above, below, choices, pattern, unused, hint, published)},
    )


def group(kind: "type[Group]", *, unused: Callable[[Any], str] | None = None) -> Any:
    """Declare a nested group. ``unused`` says why all of it has no effect, as for a key."""
    return field(default_factory=kind, metadata={"key": Key(unused=unused)})


def only_with(**required: Any) -> Callable[[Any], str]:
    """An ``unused`` rule: the parameter has an effect only while its siblings have one of the given values."""

    def reason(owner: Any) -> str:
        for name, values in required.items():
            value = getattr(owner, name)
            if value not in (values if isinstance(values, tuple) else (values,)):
                return f"{name}: {show(value)}"
        return ""

    return reason


def not_with(**excluded: Any) -> Callable[[Any], str]:
    """An ``unused`` rule: the parameter has no effect while a sibling has one of the given values."""

    def reason(owner: Any) -> str:
        for name, values in excluded.items():
            value = getattr(owner, name)
            if value in (values if isinstance(values, tuple) else (values,)):
                return f"{name}: {show(value)}"
        return ""

    return reason


@dataclass(frozen=True, kw_only=True)
class Group:
    """Base of all groups of parameters.

    An object checks itself when it is made: types (whole floats become ints, NumPy numbers become Python's), ranges and
    names of each key, then :meth:`check`.

    Attributes:
        path: the group's place in params.yaml, for example ``train.fsgl``; empty at the top level.
    """

    path: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for name, spec in keys_of(type(self)).items():
            where = self.full_name(name)
            value = _convert(hints[name], getattr(self, name), where, spec)
            _check_range(spec, value, where)
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Refuse values that contradict each other. Groups override it."""

    def modules(self) -> tuple[str, ...]:
        """Full names of the modules that are imported for these values only, such as that of a chosen method."""
        return ()

    def inactive(self) -> str:
        """Why no other key of the group has an effect, as ``key: value`` of the key to blame; empty if they do."""
        return ""

    def unaffected(self) -> tuple[str, ...]:
        """Keys that have an effect all the same where :meth:`inactive` gives a reason."""
        return ()

    @classmethod
    def place(cls) -> str:
        """``path``. A group with a key of its own called ``path`` overrides this method."""
        return cls.path

    def full_name(self, name: str) -> str:
        """The full name of a key, for example ``crt.epochs``."""
        return f"{self.place()}.{name}" if self.place() else name

    def require(self, name: str, met: bool, expected: str) -> None:
        """Raise a ConfigError about the key ``name`` unless ``met``."""
        if not met:
            raise refuse(self.full_name(name), expected, getattr(self, name))


def refuse(name: str, expected: str, given: Any, remark: str = "") -> ConfigError:
    """The error ``NAME must be EXPECTED, got GIVEN``."""
    return ConfigError(f"{name} must be {expected}, got {show(given)}" + (f" ({remark})" if remark else ""))


def show(value: Any) -> str:
    """A value as it is written in params.yaml."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value or math.isnan(value) else repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(show, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {show(item)}' for name, item in value.items())}}}"
    if isinstance(value, str) and (not re.fullmatch(r"[\w.*/+-]+", value) or re.fullmatch(_NOT_PLAIN, value)):
        return repr(value)
    return str(value)


# YAML takes these for another type unless they are quoted.
_NOT_PLAIN = r"[-+]?\.?\d[\w.+-]*|(?i:true|false|null|[-+]?\.inf|\.nan)"
_HINTS: dict[type, dict[str, Any]] = {}


def _hints(kind: type) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def keys_of(kind: Any) -> dict[str, Key]:
    """The declared keys and nested groups of a group, in order."""
    return {spec.name: spec.metadata.get("key", Key()) for spec in dataclasses.fields(kind)}


def defaults_of(kind: type[Group]) -> dict[str, Any]:
    """The defaults of all keys of a group; a nested group is a mapping."""
    return {name: defaults_of(type(v)) if isinstance(v, Group) else v for name, v in vars(kind()).items()}


def type_of(kind: type[Group], name: str) -> Any:
    """The annotated type of a key."""
    return _hints(kind)[name]


def bind(kind: type[T], content: Any, allowed: Iterable[str] = ()) -> T:
    """Make a group from a mapping, strictly. Keys that are left out keep their defaults.

    Args:
        kind: the group.
        content: keys and values, as read from YAML.
        allowed: further keys that others bind; they are passed over here.

    Raises:
        ConfigError: an unknown key, a wrong type, a value out of range, or values that contradict each other.
    """
    if not isinstance(content, Mapping):
        raise refuse(kind.place(), "a group of keys", content)
    hints, specs, others = _hints(kind), keys_of(kind), set(allowed)
    values: dict[str, Any] = {}
    for name, value in content.items():
        if name in others:
            continue
        if name not in specs:
            where = f"{kind.place()}.{show(name)}" if kind.place() else show(name)
            raise unknown_key(where, show(name), [*specs, *others])
        hint = hints[name]
        values[name] = bind(hint, value) if isinstance(hint, type) and issubclass(hint, Group) else value
    return kind(**values)


def unknown_key(where: str, name: str, allowed: list[str]) -> ConfigError:
    """The error about a key that does not exist, with the nearest one that does."""
    close = difflib.get_close_matches(name, allowed, n=1)
    hint = f" (did you mean {where.removesuffix(name)}{close[0]}?)" if close else ""
    return ConfigError(f"{where} is not a key{hint}; allowed here: {', '.join(sorted(allowed)) or 'nothing'}")


def check_given(owner: Group) -> None:
    """Refuse a key that was given, so differs from its default, although the others make it have no effect.

    Raises:
        ConfigError: names the key, its default, and why it has no effect.
    """
    defaults, inactive = vars(type(owner)()), owner.inactive()
    for name, spec in keys_of(type(owner)).items():
        value = getattr(owner, name)
        exempt = inactive.startswith(f"{name}: ") or name in owner.unaffected()
        reason = (spec.unused(owner) if spec.unused else "") or ("" if exempt else inactive)
        for where, given, default in _given(owner.full_name(name), value, defaults[name]) if reason else ():
            cause = _absolute(owner, reason)
            raise refuse(where, f"{show(default)}, its default, since it has no effect with {cause}", given)
        if isinstance(value, Group):
            check_given(value)


def _absolute(owner: Group, reason: str) -> str:
    return owner.full_name(reason) if owner.place() and re.match(r"\w+: ", reason) else reason


def _given(where: str, value: Any, default: Any) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf that differs from its default: full name, value, default."""
    if isinstance(value, Group):
        for name, inner in vars(value).items():
            yield from _given(f"{where}.{name}", inner, getattr(default, name))
    elif value != default:
        yield where, value, default


def _convert(hint: Any, value: Any, where: str, spec: Key) -> Any:
    if isinstance(hint, type) and issubclass(hint, Group):
        if isinstance(value, hint):
            return value
        raise refuse(where, "a group of keys", value)
    value = value.item() if isinstance(value, np.generic) else value
    for option in typing.get_args(hint) if _is_union(hint) else (hint,):
        accepted, converted = _accept(option, value)
        if accepted:
            if spec.choices and isinstance(converted, str) and converted not in (names := list(spec.choices())):
                raise _no_choice(where, converted, names)
            if spec.pattern and isinstance(converted, str) and not re.fullmatch(spec.pattern[0], converted):
                raise refuse(where, spec.pattern[1], converted)
            return converted
    raise refuse(where, describe(hint, spec), value, spec.hint(value) if spec.hint else "")


def _no_choice(where: str, value: str, names: list[str]) -> ConfigError:
    close = difflib.get_close_matches(value, names, n=1)
    return refuse(where, f"one of {', '.join(names)}", value, f"did you mean {close[0]}?" if close else "")


def _accept(option: Any, value: Any) -> tuple[bool, Any]:
    if typing.get_origin(option) is Literal:
        return any(type(value) is type(name) and value == name for name in typing.get_args(option)), value
    if typing.get_origin(option) is list:
        (inner,) = typing.get_args(option)
        if not isinstance(value, list):
            return False, value
        items = [_accept(inner, item) for item in value]
        return all(accepted for accepted, _ in items), [item for _, item in items]
    if typing.get_origin(option) is dict:  # keys are texts; YAML reads an unquoted 7 as a number
        _, inner = typing.get_args(option)
        if not isinstance(value, dict):
            return False, value
        if len({str(name) for name in value}) < len(value):  # 7 and "7"
            return False, value
        pairs = {name if isinstance(name, str) else show(name): _accept(inner, item) for name, item in value.items()}
        return all(accepted for accepted, _ in pairs.values()), {name: item for name, (_, item) in pairs.items()}
    if option is float:
        number = isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
        return number, float(value) if number else value
    if option is int:
        integer = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        return integer and not isinstance(value, bool), int(value) if integer else value
    return isinstance(value, option), value


def _is_finite(value: int | float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


_SINGULARS = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text", type(None): "null"}
_PLURALS = {int: "whole numbers", float: "finite numbers", str: "texts"}


def describe(hint: Any, spec: Key | None = None) -> str:
    """What a type allows, in words."""
    if _is_union(hint):
        return " or ".join(describe(option, spec) for option in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        options = [str(option) for option in typing.get_args(hint)]
        return options[0] if len(options) == 1 else f"one of {', '.join(options)}"
    if typing.get_origin(hint) is list:
        return f"a list of {_PLURALS[typing.get_args(hint)[0]]}"
    if typing.get_origin(hint) is dict:
        return f"a mapping of names to {_PLURALS[typing.get_args(hint)[1]]}"
    if hint is str and spec is not None and spec.choices:
        return f"one of {', '.join(spec.choices())}"
    if hint is str and spec is not None and spec.pattern:
        return spec.pattern[1]
    return _SINGULARS[hint]


def describe_range(spec: Key) -> str:
    """The allowed range in words; empty without one."""
    bounds = (("at least", spec.low), ("above", spec.above), ("at most", spec.high), ("below", spec.below))
    return " and ".join(f"{word} {_short(bound)}" for word, bound in bounds if bound is not None)


def _check_range(spec: Key, value: Any, where: str) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    inside = (
        (spec.low is None or value >= spec.low)
        and (spec.high is None or value <= spec.high)
        and (spec.above is None or value > spec.above)
        and (spec.below is None or value < spec.below)
    )
    if not inside:
        raise refuse(where, describe_range(spec), value, spec.hint(value) if spec.hint else "")


def _short(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"


def replace(owner: T, **changes: Any) -> T:
    """A copy of a group with some values changed, checked again."""
    return dataclasses.replace(owner, **changes)
