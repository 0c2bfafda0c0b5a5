"""The optimizers that task=descent compares: the chosen one, also at other learning rates, and others."""

import math
from functools import cache
from typing import Any

from smallvision.config import compose
from smallvision.config.schema import Config
from smallvision.core.errors import UserError, did_you_mean

MAX_COMPARED = 7  # as many as there are colours to tell them apart


def configs_to_compare(config: Config) -> dict[str, Config]:
    """By label, ``config`` with each optimizer in turn, the chosen one first.

    Raises UserError where one of ``descent.against`` is unknown or invalid, and where there are too many.
    """
    chosen, options = config.optimizer.to_dict(), config["descent"]
    sections = [chosen, *({**chosen, "lr": lr} for lr in listed(options["rates"]))]
    sections += [named_optimizer(config, name) for name in listed(options["against"])]
    found: dict[str, Config] = {}
    for section in sections:
        found.setdefault(label(config, section), with_optimizer(config, section))
    if len(found) > MAX_COMPARED:
        raise UserError(f"descent.against, descent.rates: {len(found)} optimizers; use at most {MAX_COMPARED}")
    return found


def with_optimizer(config: Config, section: dict[str, Any]) -> Config:
    return Config.from_dict({**config.to_dict(), "optimizer": section})


def listed(value: Any) -> list[Any]:
    """A single value may be typed without brackets."""
    return value if isinstance(value, list) else [value]


def named_optimizer(config: Config, typed: str) -> dict[str, Any]:
    """The section of ``adam``, at its default learning rate, or of ``adam@0.5``, at this one."""
    name, at, lr = typed.partition("@")
    default = default_section(name)
    if default is None:
        raise UserError(f"descent.against={typed}: no such optimizer.{did_you_mean(name, choices())}")
    section = dict(default)
    if at:
        try:
            section["lr"] = float(lr)
        except ValueError:
            section["lr"] = math.nan
        if not 0 < section["lr"] < math.inf:
            raise UserError(f"descent.against={typed}: a learning rate above 0 goes after the @, as in {name}@0.1")
    compose.check(with_optimizer(config, section))
    return section


def choices() -> list[str]:
    return [file.stem for file in (compose.CONFIG_DIR / "optimizer").glob("*.yaml")]


@cache
def default_section(name: str) -> dict[str, Any] | None:
    """What ``optimizer=name`` composes, which callers must not change; None where there is no such choice."""
    if name not in choices():
        return None
    return compose.compose_section("optimizer", name)


def label(config: Config, section: dict[str, Any]) -> str:
    """Name and learning rate, momentum if any, and whatever differs from the optimizer's defaults."""
    own = config["param_groups"]["weight"]["lr"]
    parts = [section["name"], f"lr {section['lr'] if own is None else own:g}"]
    default = default_section(section["name"]) or {}
    for key, value in section.items():
        if key in ("name", "_target_", "lr", "rest") or key not in default:
            continue
        if value != default[key] or (key == "momentum" and value):
            parts.append(f"{key} {'null' if value is None else str(value).lower()}")
    return ", ".join(parts)
