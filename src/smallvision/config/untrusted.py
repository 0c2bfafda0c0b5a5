"""Configs and checkpoints that come out of files: looked at before anything is done with them."""

import os
import zipfile
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from smallvision.config.schema import GROUPS, Config
from smallvision.core.errors import UserError

# A run's own config has some 150 entries in four layers; aliases and memos can make a small file endless.
MOST_ENTRIES, MOST_LAYERS = 10_000, 20
MOST_BITS = 1_000  # of a whole number: it can be printed, and made a float


def saved_config(run_dir: Path) -> Config:
    """The config that a run directory keeps."""
    file = run_dir / "config.yaml"
    if not os.path.isdir(run_dir):  # noqa: PTH112 - Path's own raises for a name that is too long
        raise UserError(f"resume={run_dir}: no such run directory")
    if not os.path.isfile(file):  # noqa: PTH113
        raise UserError(f"resume={run_dir}: not a run directory: it has no config.yaml")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML has a dozen kinds for a file that is no YAML
        raise UserError(f"{file}: cannot be read ({error})") from None
    return validate_untrusted_config(config, str(file))


def check_checkpoint_file(path: Path) -> None:
    """Raise UserError where ``path`` cannot be a checkpoint; needs no torch."""
    if not os.path.exists(path):  # noqa: PTH110 - Path's own raises for a name that is too long
        raise UserError(f"checkpoint={path}: no such file")
    if not path.is_file():
        raise UserError(f"checkpoint={path}: not a file; use {path}/checkpoints/best.ckpt")
    try:
        is_zip = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it has the end of one, damaged
        is_zip = False
    if not is_zip:
        raise UserError(f"{path}: not a checkpoint of smallvision, or truncated")


def validate_untrusted_config(config: Any, file: str) -> Config:
    """A config out of a file, if it has the form of one."""
    sections = ("trainer", "early_stopping", *GROUPS)
    if not isinstance(config, dict) or not all(isinstance(config.get(name), dict) for name in sections):
        raise UserError(f"{file}: does not hold the config of a run")
    check_plain_data(config, file, MOST_ENTRIES)
    return config


def check_plain_data(tree: Any, file: str, most: int, *others: type) -> None:
    """Raise UserError where ``tree`` holds more than words, numbers, lists and dicts (and the ``others``),
    or more than ``most`` entries, one that is there twice counted twice.
    """
    open_ends, seen = [(tree, 0)], 0
    while open_ends:
        value, layer = open_ends.pop()
        if isinstance(value, (dict, list, tuple)):
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            seen += len(parts)
            if seen > most or layer == MOST_LAYERS:
                raise UserError(f"{file}: larger or deeper than anything that a run writes")
            open_ends += [(part, layer + 1) for part in parts]
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise UserError(f"{file}: holds a number of {value.bit_length():,} bits")
        elif not isinstance(value, (str, int, float, NoneType, *others)):
            raise UserError(f"{file}: holds a {type(value).__name__}, more than plain data")


TARGETS = {
    "launcher": {"hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    "sweeper": {
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.smallvision_sweeper.SmallvisionSweeper",
    },
}
EMPTY = {
    "callbacks": "callbacks",
    "job.env_set": "environment variables",
}
LOGGING = ("job_logging", "hydra_logging")
HANDLERS = {"logging.StreamHandler", "logging.FileHandler"}  # those of Hydra's own defaults
STREAMS = {"ext://sys.stdout", "ext://sys.stderr"}


def refuse_search_path(directory: Path, name: str) -> None:
    """Before Hydra composes: a config out of a run directory has values and nothing else.

    Raises UserError where it would have Hydra import packages (``hydra.searchpath``).
    """
    file = directory / f"{name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        return  # Hydra says so
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML has a dozen kinds for a file that is no YAML
        raise UserError(f"{file}: cannot be read ({error})") from None
    node = content.get("hydra") if isinstance(content, dict) else None
    if isinstance(node, dict) and node.get("searchpath"):
        raise UserError(f"{file}: hydra.searchpath: not allowed in a file")


def check_hydra(composed: DictConfig) -> None:
    """Raise UserError where Hydra's own node would run or import anything."""
    node: Any = OmegaConf.to_container(composed.hydra, resolve=False)
    for key, words in EMPTY.items():
        found = node
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found:
            raise UserError(f"hydra.{key}: {words} of Hydra's are not allowed here")
    for section in LOGGING:
        _check_logging(f"hydra.{section}", node.get(section) or {})
    for section, allowed in TARGETS.items():
        target = (node.get(section) or {}).get("_target_")
        if target is not None and target not in allowed:
            raise UserError(f"hydra.{section}._target_={target}: not allowed here")


def _check_logging(key: str, node: Any) -> None:
    """Refuse what logging.config would import or call: factories, classes, objects by their path."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        here = f"{key}.{name}"
        factory = name in ("()", "filters") or (name == "class" and value not in HANDLERS)
        if factory or (isinstance(value, str) and "://" in value and value not in STREAMS):
            raise UserError(f"{here}={value}: not allowed here")
        if isinstance(value, (dict, list)):
            _check_logging(here, value)
