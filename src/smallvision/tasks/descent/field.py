"""Who walks: the chosen optimizer, at other rates too, and those beside it."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from smallvision.cli import compose_config
from smallvision.cli import configs as folder
from smallvision.config import compose as configs
from smallvision.config.schema import Config
from smallvision.config.targets import COMMON
from smallvision.core.errors import UserError, did_you_mean

MOST = 7  # as many as there are colours to tell apart


@dataclass(frozen=True)
class Walker:
    """``section``: of an optimizer, as config["optimizer"] is."""

    label: str
    section: dict[str, Any]


def walkers(config: Config) -> list[Walker]:
    """The chosen optimizer first. Raises UserError where one beside it is none, or impossible."""
    choice, chosen = config["descent"], config["optimizer"]
    sections = [chosen, *({**chosen, "lr": rate} for rate in listed(choice["rates"]))]
    sections += [beside(config, word) for word in listed(choice["against"])]
    found: dict[str, Walker] = {}
    for section in sections:
        found.setdefault(label(config, section), Walker(label(config, section), section))
    if len(found) > MOST:
        raise UserError(f"descent.against, descent.rates: {len(found)} ways; at most {MOST} can be told apart")
    return list(found.values())


def listed(value: Any) -> list[Any]:
    """One may be typed without the brackets."""
    return value if isinstance(value, list) else [value]


def beside(config: Config, word: str) -> dict[str, Any]:
    """The section of ``adam`` or ``adam@0.5``: the choice of that name, at its own rate or at that one."""
    name, at, typed = word.partition("@")
    usual = shipped(name)
    if usual is None:
        raise UserError(f"descent.against={word}: no such optimizer.{did_you_mean(name, choices())}")
    section = dict(usual)
    if at:
        try:
            section["lr"] = float(typed)
        except ValueError:
            section["lr"] = math.nan
        if not 0 < section["lr"] < math.inf:
            raise UserError(f"descent.against={word}: after @ comes a learning rate above 0, as in {name}@0.1")
    configs.check({**config, "optimizer": section})
    return section


def choices() -> list[str]:
    return [file.stem for file in (folder() / "optimizer").glob("*.yaml")]


@cache
def shipped(name: str) -> dict[str, Any] | None:
    """The section that ``optimizer=name`` makes, not to be changed; None where there is no such choice."""
    if name not in choices():
        return None
    composed = compose_config(folder(), "train", [f"optimizer={name}"])
    section = OmegaConf.to_container(composed["optimizer"], resolve=True)
    assert isinstance(section, dict)
    return {str(key): value for key, value in section.items()}


def label(config: Config, section: dict[str, Any]) -> str:
    """What tells it from the others: its name, rate and momentum, and what is not as its file has it."""
    own = config["param_groups"]["weight"]["lr"]
    words = [section["name"], f"lr {section['lr'] if own is None else own:g}"]
    usual = shipped(section["name"]) or {}
    for key, value in section.items():
        if key in (*COMMON, "lr", "rest") or key not in usual:
            continue
        if value != usual[key] or (key == "momentum" and value):
            words.append(f"{key} {'null' if value is None else str(value).lower()}")
    return ", ".join(words)
