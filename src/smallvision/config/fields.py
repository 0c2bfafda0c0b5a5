"""Typed sections of a config: dataclasses whose annotations say what each key may hold.

``lr: Annotated[float, Range(above=0)]`` is checked when a section is made from a dict, and the same
annotation writes the error: ``optimizer.lr=-1: must be a number above 0``. Needs no torch, and a tenth of the
import time of a validation library, so that a typing mistake is answered at once.
"""

import dataclasses
import re
import reprlib
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from smallvision.core.errors import UserError, did_you_mean

LARGEST_INTEGER = 2**31 - 1  # of whole numbers without a bound of their own; more than anything counts here
S = TypeVar("S", bound="Section")
# Metadata of fields that only some runs have: None where there is none, and then not in the file. One may also be
# null in the file.
OPTIONAL = {"optional": True}
OPTIONAL_OR_NULL = {"optional": True, "null": True}


@dataclass(frozen=True)
class Range:
    """Bounds of a number: ``low`` and ``high`` are allowed, ``above`` and ``below`` are not."""

    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None

    def accepts(self, value: Any) -> bool:
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def describe(self, kind: str) -> str:
        whole = kind == "a whole number"
        if whole and self.low is not None and self.high is not None:
            return f"{kind} from {self.low} to {self.high}"
        if whole and self.low is not None:
            return f"{kind}, at least {self.low}"
        bounds = {"above": self.above, "at least": self.low, "below": self.below, "at most": self.high}
        return " ".join(
            [kind, " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if bound is not None)]
        )


@dataclass(frozen=True)
class Length:
    """How many entries a list has: exactly ``exact``, or at least ``minimum``."""

    minimum: int = 0
    exact: int | None = None

    def accepts(self, value: Any) -> bool:
        return len(value) >= self.minimum if self.exact is None else len(value) == self.exact

    def describe(self, kind: str) -> str:
        count = f"{self.exact}" if self.exact is not None else f"at least {self.minimum}"
        return kind.replace("a list of entries", f"a list of {count} entries", 1)


@dataclass(frozen=True)
class Matches:
    """Text that ``pattern`` matches as a whole; ``meaning`` completes "must be ..."."""

    pattern: str
    meaning: str

    def accepts(self, value: Any) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def describe(self, kind: str) -> str:
        return self.meaning


def accepts(value: Any, annotation: Any) -> bool:
    """Whether ``value``, out of YAML or JSON, is of the annotated type; nothing is converted but whole numbers
    where a float is wanted.
    """
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *limits = get_args(annotation)
        if not accepts(value, base) or not all(limit.accepts(value) for limit in limits):
            return False
        bounded = any(isinstance(limit, Range) and limit.high is not None for limit in limits)
        return base is not int or bounded or value <= LARGEST_INTEGER
    if origin in (Union, types.UnionType):
        return any(accepts(value, option) for option in get_args(annotation))
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in get_args(annotation))
    if origin is list:
        return isinstance(value, list) and all(accepts(item, get_args(annotation)[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(accepts(item, get_args(annotation)[1]) for item in value.values())
    if annotation is Any:
        return True
    if annotation in (None, types.NoneType):
        return value is None
    if annotation is int:
        return type(value) is int
    if annotation is float:
        return type(value) in (int, float) and -sys.float_info.max <= value <= sys.float_info.max
    if annotation is str:
        return isinstance(value, str) and bool(value.strip())
    return isinstance(value, annotation)


def describe(annotation: Any) -> str:
    """What completes "must be ..." for that type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        base, *limits = get_args(annotation)
        text = describe(base)
        for limit in limits:
            text = limit.describe(text)
        return text
    if origin in (Union, types.UnionType):
        options = sorted(get_args(annotation), key=lambda option: option is not types.NoneType)
        return " or ".join(describe(option) for option in options)
    if origin is Literal:
        return f"one of {', '.join(_shown(option) for option in get_args(annotation))}"
    if origin is list:
        return f"a list of entries, each {describe(get_args(annotation)[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    return names.get(annotation, "a section of keys, as in configs/train.yaml")


class Section:
    """Base of the dataclasses that make up a config. A field is a key, an inner section or an optional one."""

    @classmethod
    def from_dict(cls: type[S], tree: Any, name: str = "") -> S:
        """The typed section; ``name`` is where the config has it, empty for the whole.

        Raises UserError at the first key that is unknown, missing or of another type.
        """
        if not isinstance(tree, Mapping):
            raise UserError(f"{name}={_shown(tree)}: must be a section of keys, as in configs/train.yaml")
        prefix = f"{name}." if name else ""
        own: Any = cls
        hints, values, extra = key_types(own), {}, {}
        takes_extra = "extra" in _fields(cls)
        for key, value in tree.items():
            if key in hints:
                values[_field_name(key)] = _converted(value, hints[key], f"{prefix}{key}")
            elif takes_extra and isinstance(key, str):
                known = extra_types(own).get(key, Any)
                extra[key] = _converted(value, known, f"{prefix}{key}")
            else:
                raise UserError(f"{prefix}{key}: no such key{_nearest(cls, str(key), prefix)}")
        for field in _fields(cls).values():
            if field.name not in values and field.name != "extra" and field.default is dataclasses.MISSING:
                raise UserError(f"{prefix}{_key(field)}: missing; set {prefix}{_key(field)}=VALUE")
        return cls(**values, **({"extra": extra} if takes_extra else {}))

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as config.yaml and checkpoints hold it. Optional sections that are not there
        are left out.
        """
        plain: dict[str, Any] = {}
        for name, field in _fields(type(self)).items():
            value = getattr(self, name)
            if name == "extra":
                plain |= value
            elif isinstance(value, Section):
                plain[_key(field)] = value.to_dict()
            elif value is not None or "optional" not in field.metadata:
                plain[_key(field)] = value
        return plain

    def updated(self: S, changes: dict[str, Any]) -> S:
        """The same with the keys of ``changes``, checked; a dict updates the section of its name."""
        tree = self.to_dict()
        for key, value in changes.items():
            tree[key] = {**tree[key], **value} if isinstance(value, dict) and isinstance(tree.get(key), dict) else value
        return type(self).from_dict(tree)


@cache
def key_types(cls: type[Any]) -> dict[str, Any]:
    """Each key of a section, as it is typed, with its annotation; one that may be absent is not null if present."""
    hints = get_type_hints(cls, include_extras=True)
    found = {}
    for name, field in _fields(cls).items():
        if field.metadata == OPTIONAL:
            options = [option for option in get_args(hints[name]) if option is not types.NoneType]
            hints[name] = Union[tuple(options)]  # noqa: UP007 - of options known at run time only
        if name != "extra":
            found[_key(field)] = hints[name]
    return found


@cache
def extra_types(cls: type[Any]) -> dict[str, Any]:
    """The types of those keys of ``extra`` that are known: the annotations of the class's ``Known``."""
    known = getattr(cls, "Known", None)
    return get_type_hints(known, include_extras=True) if known is not None else {}


def _fields(cls: type[Any]) -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(cls)}


def _key(field: Any) -> str:
    return "_target_" if field.name == "target" else str(field.name)


def _field_name(key: str) -> str:
    return "target" if key == "_target_" else key


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that an annotation allows, if any."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)


def _converted(value: Any, annotation: Any, key: str) -> Any:
    section = _section_of(annotation)
    if section is not None and (isinstance(value, Mapping) or not accepts(value, annotation)):
        return section.from_dict(value, key)
    if not accepts(value, annotation):
        raise UserError(f"{key}={_shown(value)}: must be {describe(annotation)}")
    return value


def _nearest(cls: Any, key: str, prefix: str) -> str:
    return f".{did_you_mean(key, key_types(cls), prefix)}" if prefix else "; configs/train.yaml shows them all"


def _shown(value: Any) -> str:
    """As it would be typed; a list or section, which a file may make endless, is shortened."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return reprlib.repr(value) if isinstance(value, (dict, list)) else str(value)
