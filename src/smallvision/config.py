"""From what was typed to the one config that a run goes by."""

import os
import re
import secrets
import zipfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smallvision import rules
from smallvision.build import ALLOWED, check_target
from smallvision.errors import Refusal, did_you_mean

# Known before the data are read.
TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "digits": 1_437}
# Logger: the module that it needs and the package that brings it.
LOGGERS = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "wandb": ("wandb", "wandb"),
}
GROUPS = ("data", "model", "optimizer", "scheduler", "device", "logger")
CHOICES = (*GROUPS, "task", "experiment")
TASKS = ("fit", "test", "report")
MAY_CHANGE_ON_RESUME = (
    "resume", "data_dir", "data", "trainer", "optimizer", "scheduler", "device", "logger", "early_stopping",
    "checkpoint", "hydra",
)  # fmt: skip
MAY_CHANGE_IN_TEST = ("task", "checkpoint", "data_dir", "data", "device", "trainer", "hydra")
_SUFFIX = secrets.token_hex(3)
Config = dict[str, Any]

OmegaConf.register_new_resolver("run_suffix", lambda: _SUFFIX, replace=True)


def settle(composed: DictConfig, typed: list[str]) -> Config:
    """The resolved, checked config as plain dicts, lists, strings and numbers.

    ``composed``: what Hydra made of the ``typed`` overrides. With ``resume=`` or a task that takes a
    checkpoint, the run's own config is the ground and only what was typed is laid over it.

    Raises Refusal for whatever no run could go by.
    """
    overrides = parse(typed)
    for override in overrides:
        if override.is_delete() and override.key_or_group != "experiment":
            raise Refusal(
                f"~{override.key_or_group}: a key cannot be left out; set it, to null where it may be"
            )
    config = _plain(composed)
    _check_present(config)
    if config["task"] == "fit" and config.get("resume") is not None:
        if not isinstance(config["resume"], str):
            raise Refusal(f"resume={config['resume']}: must be a run directory")
        _only(overrides, MAY_CHANGE_ON_RESUME, "resume continues the run as it was")
        config = lay_over(saved_config(Path(config["resume"])), config, overrides)
    if config["task"] == "test":
        _only(overrides, MAY_CHANGE_IN_TEST, "the checkpoint says it")
        if not isinstance(config["checkpoint"], str):
            raise Refusal(f"checkpoint={config['checkpoint']}: must be a file")
        refuse_other_files(Path(config["checkpoint"]))
        from smallvision.training.checkpoint import read  # torch comes only now

        saved = read(Path(config["checkpoint"]))["smallvision"]["config"]
        saved = checked_stranger(saved, config["checkpoint"])
        config = lay_over(saved, config, overrides)
    check(config)
    return config


def parse(typed: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(typed)
    except (ValueError, AssertionError, RecursionError) as error:  # Hydra's parser gives way
        raise Refusal(f"{' '.join(typed)[:200]}: not understood ({error})") from None


def check(config: Config) -> None:
    """Everything that can be known to be wrong without torch."""
    rules.check(config)
    task, checkpoint = config["task"], config.get("checkpoint")
    if task not in TASKS:
        raise Refusal(f"task={task}: no such task.{did_you_mean(task, TASKS)}")
    if task == "fit" and not isinstance(checkpoint, dict):
        raise Refusal(f"checkpoint={checkpoint}: goes with task=test; a run is continued with resume=RUN_DIR")
    for section in ALLOWED:
        target = config[section].get("_target_")
        if target is not None or section != "logger":
            check_target(section, target)
    _check_data(config["data"])
    needs, package = LOGGERS.get(config["logger"]["name"], (None, None))
    if needs is not None and find_spec(needs) is None:
        raise Refusal(f"logger={config['logger']['name']}: needs a package: pip install {package}")
    early, trainer = config["early_stopping"], config["trainer"]
    if early["patience"] is not None and config["data"]["val_size"] == 0:
        raise Refusal("early_stopping.patience: needs validation images; set data.val_size above 0")
    if trainer["min_epochs"] is not None and trainer["min_epochs"] > trainer["max_epochs"]:
        raise Refusal("trainer.min_epochs: must not be larger than trainer.max_epochs")


def _check_data(data: Config) -> None:
    path, name = data.get("path"), data["name"]
    if isinstance(path, str):
        place = os.path.expanduser(path)  # noqa: PTH111 - Path's own raises for an unknown user
        if not (os.path.isdir(place) if name == "folder" else os.path.isfile(place)):  # noqa: PTH112, PTH113
            raise Refusal(f"data.path={path}: no such {'folder' if name == 'folder' else 'file'}")
    count = data.get("images") if name == "shapes" else TRAINING_IMAGES.get(name)
    if count is not None and data["val_size"] >= count:
        raise Refusal(
            f"data.val_size={data['val_size']}: larger than the data, which has {count} training images;"
            f" use a value below {count}"
        )


def loosened(typed: list[str]) -> list[str]:
    """The same overrides, for Hydra, of a run that continues or of a checkpoint.

    What Hydra composes then is not the run's own config and may lack a key that this has. So values are
    forced in; :func:`lay_over` holds them against the run's own keys.
    """
    overrides = parse(typed)
    given = {override.key_or_group: override.value() for override in overrides if not override.is_delete()}
    if given.get("resume") is None and given.get("task") != "test":
        return typed
    plain = [
        line[:1] not in "+~" and o.key_or_group not in CHOICES
        for o, line in zip(overrides, typed, strict=True)
    ]
    return [
        f"++{o.input_line}" if forced else line
        for o, forced, line in zip(overrides, plain, typed, strict=True)
    ]


def lay_over(saved: Config, composed: Config, overrides: list[Override]) -> Config:
    """``saved`` with every typed group and key taken from ``composed``, and with keys that it lacks.

    Raises Refusal where a typed key is in no run of that kind.
    """
    config = {**composed, **{key: value for key, value in saved.items() if key in composed}}
    for key, value in composed.items():
        if isinstance(value, dict) and isinstance(saved.get(key), dict) and key not in GROUPS:
            config[key] = {**value, **saved[key]}  # a key younger than the saved config
    for key in ("task", "resume"):
        config[key] = composed[key]
    if isinstance(composed.get("checkpoint"), str):
        config["checkpoint"] = composed["checkpoint"]
    for override in overrides:
        path = override.key_or_group.split(".")
        if path[0] == "hydra":
            continue
        source: Any = composed
        target: Any = config
        for name in path[:-1]:
            source = source.get(name) if isinstance(source, dict) else None
            target = target.get(name) if isinstance(target, dict) else None
        known = target if isinstance(target, dict) else {}
        if (
            not isinstance(source, dict)
            or path[-1] not in source
            or not (path[-1] in known or override.is_add())
        ):
            near = did_you_mean(path[-1], known, prefix=".".join([*path[:-1], ""]))
            raise Refusal(f"{override.key_or_group}: no such key.{near}")
        target[path[-1]] = source[path[-1]]
    return config


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
    return config


def _plain(composed: DictConfig) -> Config:
    """Resolved; Hydra's own node left out; a mandatory value that is missing becomes a refusal."""
    try:
        visible = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
        missing = sorted(OmegaConf.missing_keys(visible))
        if missing:
            raise Refusal(f"{missing[0]}: needs a value; type {missing[0]}=VALUE")
        plain = OmegaConf.to_container(visible, resolve=True)
    except OmegaConfBaseException as error:
        raise Refusal(f"{error.full_key or 'config'}: {str(error).splitlines()[0][:200]}") from None
    assert isinstance(plain, dict)
    if plain.get("experiment") is not None:
        raise Refusal("experiment: has keys of its own; its file must open with # @package _global_")
    plain.pop("experiment", None)
    return {str(key): value for key, value in plain.items()}


def _check_present(config: Config) -> None:
    for key in ("task", "seed", "data_dir", *GROUPS, "trainer", "early_stopping"):
        if config.get(key) is None:
            raise Refusal(f"{key}: cannot be left out")


def _only(overrides: list[Override], allowed: tuple[str, ...], reason: str) -> None:
    for override in overrides:
        key = override.key_or_group
        first = re.split(r"[.@/]", key)[0]
        if first not in allowed or (key in ("data", "data.name", "data._target_") and "resume" in allowed):
            raise Refusal(f"{key}: cannot be changed here: {reason}")
