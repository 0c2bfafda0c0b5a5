"""Configs and checkpoints that come out of files: looked at before anything is done with them."""

import os
import zipfile
from pathlib import Path
from types import NoneType
from typing import Any

import yaml

from smallvision.errors import Refusal
from smallvision.overrides import GROUPS, Config

# A run's own config has some 150 entries in four layers; aliases and memos can make a small file endless.
MOST_ENTRIES, MOST_LAYERS = 10_000, 20
MOST_BITS = 1_000  # of a whole number: it can be printed, and made a float


def saved_config(run_dir: Path) -> Config:
    """The config that a run directory keeps."""
    file = run_dir / "config.yaml"
    if not os.path.isdir(run_dir):  # noqa: PTH112 - Path's own raises for a name that is too long
        raise Refusal(f"resume={run_dir}: no such run directory")
    if not os.path.isfile(file):  # noqa: PTH113
        raise Refusal(f"resume={run_dir}: not a run directory: it has no config.yaml")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML has a dozen kinds for a file that is no YAML
        raise Refusal(f"{file}: cannot be read ({error})") from None
    return checked_stranger(config, str(file))


def refuse_other_files(path: Path) -> None:
    """Raise Refusal where ``path`` cannot be a checkpoint; needs no torch."""
    if not os.path.exists(path):  # noqa: PTH110 - Path's own raises for a name that is too long
        raise Refusal(f"checkpoint={path}: no such file")
    if not path.is_file():
        raise Refusal(f"checkpoint={path}: not a file; use {path}/checkpoints/best.ckpt")
    try:
        is_zip = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it has the end of one, damaged
        is_zip = False
    if not is_zip:
        raise Refusal(f"{path}: not a checkpoint of smallvision, or truncated")


def checked_stranger(config: Any, file: str) -> Config:
    """A config out of a file, if it has the form of one."""
    sections = ("trainer", "early_stopping", *GROUPS)
    if not isinstance(config, dict) or not all(isinstance(config.get(name), dict) for name in sections):
        raise Refusal(f"{file}: does not hold the config of a run")
    refuse_other_than_plain(config, file, MOST_ENTRIES)
    return config


def refuse_other_than_plain(tree: Any, file: str, most: int, *others: type) -> None:
    """Raise Refusal where ``tree`` holds more than words, numbers, lists and dicts (and the ``others``),
    or more than ``most`` entries, one that is there twice counted twice.
    """
    open_ends, seen = [(tree, 0)], 0
    while open_ends:
        value, layer = open_ends.pop()
        if isinstance(value, (dict, list, tuple)):
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            seen += len(parts)
            if seen > most or layer == MOST_LAYERS:
                raise Refusal(f"{file}: larger or deeper than anything that a run writes")
            open_ends += [(part, layer + 1) for part in parts]
        elif isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise Refusal(f"{file}: holds a number of {value.bit_length():,} bits")
        elif not isinstance(value, (str, int, float, NoneType, *others)):
            raise Refusal(f"{file}: holds a {type(value).__name__}, more than plain data")
