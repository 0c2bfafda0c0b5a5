"""The optimizers that task=descent compares: the chosen one, also at other learning rates, and others."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

from smallvision.config.compose import CONFIG_DIR, compose_section
from smallvision.config.schema import Config, Optimizer
from smallvision.core.errors import UserError, did_you_mean

MAX_COMPARED = 7  # as many as there are colours to tell them apart


def configs_to_compare(config: Config) -> dict[str, Config]:
    """By label, ``config`` with each optimizer in turn, the chosen one first.

    Raises UserError where one of ``descent.compare_with`` is unknown or invalid, and where there are too many.
    """
    assert config.descent is not None
    compared = [config, *(config.updated({"optimizer": {"lr": lr}}) for lr in listed(config.descent.rates))]
    compared += [with_optimizer(config, typed) for typed in listed(config.descent.compare_with)]
    found = {label(one): one for one in compared}
    if len(found) > MAX_COMPARED:
        raise UserError(f"descent.compare_with, descent.rates: {len(found)} optimizers; use at most {MAX_COMPARED}")
    return found


def listed(value: Any) -> list[Any]:
    """A single value may be typed without brackets."""
    return value if isinstance(value, list) else [value]


def with_optimizer(config: Config, typed: str) -> Config:
    """``config`` with the optimizer of ``adam``, at its default learning rate, or of ``adam@0.5``, at this one."""
    name, at, lr = typed.partition("@")
    choices = [file.stem for file in (CONFIG_DIR / "optimizer").glob("[!_]*.yaml")]
    if name not in choices:
        raise UserError(f"descent.compare_with={typed}: no such optimizer.{did_you_mean(name, choices)}")
    optimizer = Optimizer.from_dict(defaults(name), "optimizer")
    if at:
        try:
            optimizer = replace(optimizer, lr=float(lr))
        except ValueError:
            optimizer = replace(optimizer, lr=math.nan)
        if not 0 < optimizer.lr < math.inf:
            raise UserError(f"descent.compare_with={typed}: a learning rate above 0 goes after the @, as in {name}@0.1")
    return replace(config, optimizer=optimizer)


@cache
def defaults(name: str) -> dict[str, Any]:
    """What ``optimizer=name`` composes, empty where there is no such choice; callers must not change it."""
    return compose_section("optimizer", name) if (CONFIG_DIR / "optimizer" / f"{name}.yaml").is_file() else {}


def label(config: Config) -> str:
    """Name and learning rate, momentum if any, and whatever differs from the optimizer's defaults."""
    optimizer, own_lr = config.optimizer, config.param_groups.weight.lr
    parts = [optimizer.name, f"lr {optimizer.lr if own_lr is None else own_lr:g}"]
    for key, default in defaults(optimizer.name).items():
        value = optimizer.extra.get(key, default)
        if value != default or (key == "momentum" and value):
            parts.append(f"{key} {'null' if value is None else str(value).lower()}")
    return ", ".join(parts)
