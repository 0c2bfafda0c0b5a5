"""Configs and checkpoints that come from elsewhere: checked before anything is done with them. Needs no torch.

Hydra calls what its own node names: callbacks, launcher, sweeper, handlers of its logging; it imports the packages
of its search path and sets environment variables. A config out of a file may ask for none of that.
"""

import os
import zipfile
from pathlib import Path
from types import NoneType
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from smallvision.config.schema import GROUPS
from smallvision.core.errors import UserError
from smallvision.core.run_dir import not_a_run

# A run's own config has some 150 entries in four levels; YAML's aliases and pickle's memo can make a small file
# endless.
MAX_ENTRIES, MAX_DEPTH = 10_000, 20
MAX_BITS = 1_000  # of a whole number, so that it can be printed and made a float

HYDRA_TARGETS = {
    "launcher": {"hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    "sweeper": {"hydra._internal.core_plugins.basic_sweeper.BasicSweeper"},
}
HYDRA_LOGGING = ("job_logging", "hydra_logging")
HANDLERS = {"logging.StreamHandler", "logging.FileHandler"}  # those of Hydra's own defaults
STREAMS = {"ext://sys.stdout", "ext://sys.stderr"}


def load_run_config(run_dir: Path, key: str = "resume") -> dict[str, Any]:
    """The config that a run directory, typed as ``key``, keeps, as plain data. Raises UserError where there is none, or
    no config.
    """
    file = run_dir / "config.yaml"
    if not os.path.isdir(run_dir):  # noqa: PTH112 - Path's own raises for a name that is too long
        raise UserError(f"{key}={run_dir}: no such run directory")
    if not os.path.isfile(file):  # noqa: PTH113
        raise UserError(f"{key}={run_dir}: {not_a_run(run_dir, key)}")
    tree = validate_untrusted_config(_read_yaml(file), str(file))
    if tree.get("task", "fit") != "fit":
        raise UserError(f"{key}={run_dir}: a run of task={tree['task']}, not a training; type its command again")
    return tree


def validate_untrusted_config(tree: object, file: str) -> dict[str, Any]:
    """``tree``, out of ``file``, if it has the form of a run's config. Raises UserError, naming the file."""
    sections = ("trainer", "early_stopping", *GROUPS)
    if not isinstance(tree, dict) or not all(isinstance(tree.get(name), dict) for name in sections):
        raise UserError(f"{file}: does not hold the config of a run")
    check_plain_data(tree, file, MAX_ENTRIES)
    return tree


def check_plain_data(tree: object, file: str, max_entries: int, *others: type) -> None:
    """Raise UserError where ``tree`` holds more than text, numbers, lists and dicts (and the ``others``), or more
    than ``max_entries`` entries; one that is referred to twice counts twice.
    """
    open_ends, seen = [(tree, 0)], 0
    while open_ends:
        value, depth = open_ends.pop()
        if isinstance(value, (dict, list, tuple)):
            parts = [*value.keys(), *value.values()] if isinstance(value, dict) else value
            seen += len(parts)
            if seen > max_entries or depth == MAX_DEPTH:
                raise UserError(f"{file}: larger or deeper than anything that a run writes")
            open_ends += [(part, depth + 1) for part in parts]
        elif isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise UserError(f"{file}: holds a number of {value.bit_length():,} bits")
        elif not isinstance(value, (str, int, float, NoneType, *others)):
            raise UserError(f"{file}: holds a {type(value).__name__}, more than plain data")


def check_checkpoint_file(path: Path) -> None:
    """Raise UserError where ``path`` cannot be a checkpoint."""
    if not os.path.exists(path):  # noqa: PTH110 - Path's own raises for a name that is too long
        raise UserError(f"checkpoint={path}: no such file")
    if not path.is_file():
        raise UserError(f"checkpoint={path}: {not_a_run(path, 'checkpoint')}")
    try:
        is_zip = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it has the end of one, damaged
        is_zip = False
    if not is_zip:
        raise UserError(f"{path}: not a checkpoint of smallvision, or truncated")


def refuse_search_path(directory: Path, name: str) -> None:
    """Raise UserError where the main config would have Hydra import packages (``hydra.searchpath``): to be called
    before Hydra composes.
    """
    file = directory / f"{name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        return  # Hydra reports it
    content = _read_yaml(file)
    node = content.get("hydra") if isinstance(content, dict) else None
    if isinstance(node, dict) and node.get("searchpath"):
        raise UserError(f"{file}: hydra.searchpath: not allowed in a file")


def check_hydra(composed: DictConfig) -> None:
    """Raise UserError where Hydra's own node would run or import anything."""
    node = OmegaConf.to_container(composed.hydra, resolve=False)
    assert isinstance(node, dict)
    job = node.get("job")
    if node.get("callbacks"):
        raise UserError("hydra.callbacks: callbacks of Hydra's are not allowed here")
    if isinstance(job, dict) and job.get("env_set"):
        raise UserError("hydra.job.env_set: environment variables of Hydra's are not allowed here")
    for section in HYDRA_LOGGING:
        _check_logging(f"hydra.{section}", node.get(section))
    for section, allowed in HYDRA_TARGETS.items():
        part = node.get(section)
        target = part.get("_target_") if isinstance(part, dict) else part
        if target is not None and str(target) not in allowed:
            raise UserError(f"hydra.{section}._target_={target}: not allowed here")


def _check_logging(key: str, node: object) -> None:
    """Refuse what logging.config would import or call: factories, classes, objects by their path."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in pairs:
        here = f"{key}.{name}"
        factory = name in ("()", "filters") or (name == "class" and str(value) not in HANDLERS)
        if factory or (isinstance(value, str) and "://" in value and value not in STREAMS):
            raise UserError(f"{here}={value}: not allowed here")
        _check_logging(here, value)


def _read_yaml(file: Path) -> object:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML has a dozen exceptions for a file that is no YAML
        raise UserError(f"{file}: cannot be read ({error})") from None
