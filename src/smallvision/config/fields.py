"""Typed sections of a config: dataclasses whose annotations say what each key may hold.

``lr: Annotated[float, Range(above=0)]`` is checked when a section is made from a dict, and the same
annotation writes the error: ``optimizer.lr=-1: must be a number above 0``. Needs no torch, and a tenth of the
import time of a validation library, so that a typing mistake is answered at once.
"""

import dataclasses
import math
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

    low: float = -math.inf
    high: float = math.inf
    above: float = -math.inf
    below: float = math.inf

    def accepts(self, value: float) -> bool:
        return self.low <= value <= self.high and self.above < value < self.below

    def describe(self, kind: str) -> str:
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{kind} from {self.low} to {self.high}"
        bounds = {"above": self.above, "at least": self.low, "below": self.below, "at most": self.high}
        return f"{kind} " + " and ".join(f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound))


@dataclass(frozen=True)
class Length:
    """How many entries a list has: exactly ``exact``, or at least ``minimum``."""

    minimum: int = 0
    exact: int | None = None

    def accepts(self, value: list[object]) -> bool:
        return len(value) >= self.minimum if self.exact is None else len(value) == self.exact

    def describe(self, kind: str) -> str:
        count = f"{self.exact}" if self.exact is not None else f"at least {self.minimum}"
        return kind.replace("a list of entries", f"a list of {count} entries", 1)


@dataclass(frozen=True)
class Matches:
    """Text that ``pattern`` matches as a whole; ``meaning`` completes "must be ..."."""

    pattern: str
    meaning: str

    def accepts(self, value: str) -> bool:
        return re.fullmatch(self.pattern, value) is not None

    def describe(self, kind: str) -> str:
        return self.meaning


def accepts(value: object, annotation: object) -> bool:
    """Whether ``value``, out of YAML or JSON, is of the annotated type; nothing is converted but whole numbers
    where a float is wanted.
    """
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        base, *limits = parts
        if base is int and not any(math.isfinite(limit.high) for limit in limits):
            limits.append(Range(high=LARGEST_INTEGER))
        return accepts(value, base) and all(limit.accepts(value) for limit in limits)
    if origin in (Union, types.UnionType):
        return any(accepts(value, option) for option in parts)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in parts)
    if origin is list:
        return isinstance(value, list) and all(accepts(item, parts[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(accepts(item, parts[1]) for item in value.values())
    if annotation is int:
        return type(value) is int
    if annotation is float:
        return isinstance(value, int | float) and type(value) is not bool and abs(value) <= sys.float_info.max
    if annotation is str:
        return isinstance(value, str) and bool(value.strip())
    return isinstance(annotation, type) and isinstance(value, annotation)


def describe(annotation: object) -> str:
    """What completes "must be ..." for that type."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        text = describe(parts[0])
        for limit in parts[1:]:
            text = limit.describe(text)
        return text
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in sorted(parts, key=lambda one: one is not types.NoneType))
    if origin is Literal:
        return f"one of {', '.join(map(_shown, parts))}"
    if origin is list:
        return f"a list of entries, each {describe(parts[0])}"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "null"}
    section = "a section of keys, as in configs/train.yaml"
    return names.get(annotation, section) if isinstance(annotation, type) else section


@dataclass
class Section:
    """Base of the dataclasses that make up a config. A field is a key, an inner section or an optional one;
    in ``extra``, where there is one, are all further keys, of the types in the class's ``Known``.
    """

    @classmethod
    def from_dict(cls: type[S], tree: object, name: str = "") -> S:
        """The typed section; ``name`` is where the config has it, empty for the whole.

        Raises UserError at the first key that is unknown, missing or of another type.
        """
        if not isinstance(tree, Mapping):
            raise UserError(f"{name}={_shown(tree)}: must be a section of keys, as in configs/train.yaml")
        prefix = f"{name}." if name else ""
        fields, annotations, known = cls.fields(), cls.key_types(), cls.extra_types()
        if not str(tree.get("_target_", "torch.")).startswith(("smallvision.", "torch.", "lightning.")):
            known = {}  # code of the user's own, whose arguments have types of their own
        values: dict[str, object] = {}
        extra: dict[str, object] = {}
        for key, value in tree.items():
            if key in annotations:
                values[fields[key].name] = _converted(value, annotations[key], f"{prefix}{key}")
            elif "extra" in fields and isinstance(key, str):
                extra[key] = _converted(value, known.get(key, object), f"{prefix}{key}")
            else:
                nearest = (
                    f".{did_you_mean(str(key), annotations, prefix)}"
                    if prefix
                    else "; configs/train.yaml shows them all"
                )
                raise UserError(f"{prefix}{key}: no such key{nearest}")
        for key, field in fields.items():
            if field.default is field.default_factory is dataclasses.MISSING and field.name not in values:
                raise UserError(f"{prefix}{key}: missing; set {prefix}{key}=VALUE")
        if "extra" in fields:
            values["extra"] = extra
        return cls(**values)

    @classmethod
    @cache
    def fields(cls) -> "dict[str, dataclasses.Field[object]]":
        """By key: as it is typed."""
        return {"_target_" if field.name == "target" else field.name: field for field in dataclasses.fields(cls)}

    @classmethod
    @cache
    def key_types(cls) -> dict[str, object]:
        """Each key with its annotation, ``extra`` left out; a key that may be absent is not null if present."""
        hints = get_type_hints(cls, include_extras=True)
        found: dict[str, object] = {key: hints[field.name] for key, field in cls.fields().items() if key != "extra"}
        for key, field in cls.fields().items():
            if field.metadata == OPTIONAL:
                options = tuple(option for option in get_args(found[key]) if option is not types.NoneType)
                found[key] = Union[options]  # noqa: UP007 - of options known at run time only
        return found

    @classmethod
    @cache
    def extra_types(cls) -> dict[str, object]:
        """The types of those keys of ``extra`` that are known: the annotations of the class's ``Known``."""
        return get_type_hints(getattr(cls, "Known", object), include_extras=True)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data, as config.yaml and checkpoints hold it. Optional sections that are not there
        are left out.
        """
        plain: dict[str, Any] = {}
        for key, field in self.fields().items():
            value = getattr(self, field.name)
            if isinstance(value, Section):
                plain[key] = value.to_dict()
            elif key != "extra" and (value is not None or "optional" not in field.metadata):
                plain[key] = value
        return plain | getattr(self, "extra", {})

    def updated(self: S, changes: Mapping[str, object]) -> S:
        """The same with the keys of ``changes``, checked; a dict updates the section of its name."""
        tree = self.to_dict()
        for key, value in changes.items():
            old = tree.get(key)
            tree[key] = {**old, **value} if isinstance(value, dict) and isinstance(old, dict) else value
        return type(self).from_dict(tree)


def section_of(annotation: object) -> type[Section] | None:
    """The section that an annotation allows, if any."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)


def _converted(value: object, annotation: object, key: str) -> object:
    section = section_of(annotation)
    if section is not None and (isinstance(value, Mapping) or not accepts(value, annotation)):
        return section.from_dict(value, key)
    if not accepts(value, annotation):
        raise UserError(f"{key}={_shown(value)}: must be {describe(annotation)}")
    return value


def _shown(value: object) -> str:
    """As it would be typed; a list or section, which a file may make endless, is shortened."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return reprlib.repr(value) if isinstance(value, (dict, list)) else str(value)
