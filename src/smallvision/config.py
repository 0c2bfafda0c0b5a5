"""From what was typed to the one config that a run goes by."""

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
        check(config)
        _only(overrides, MAY_CHANGE_ON_RESUME, "resume continues the run as it was")
        config = lay_over(saved_config(Path(config["resume"])), config, overrides)
    if config["task"] == "test":
        _only(overrides, MAY_CHANGE_IN_TEST, "the checkpoint says it")
        check(config)
        refuse_other_files(Path(config["checkpoint"]))
        from smallvision.training.checkpoint import read  # torch comes only now

        saved = read(Path(config["checkpoint"]))["smallvision"]["config"]
        saved = checked_stranger(saved, config["checkpoint"])
        config = lay_over(saved, config, overrides)
    check(config)
    return config


def parse(typed: list[str]) -> list[Override]:
    return OverridesParser.create().parse_overrides(typed)


def check(config: Config) -> None:
    """Everything that can be known to be wrong without torch."""
    rules.check(config)
    task, checkpoint = config["task"], config.get("checkpoint")
    if task not in TASKS:
        raise Refusal(f"task={task}: no such task.{did_you_mean(task, TASKS)}")
    if task == "fit" and not isinstance(checkpoint, dict):
        raise Refusal(f"checkpoint={checkpoint}: goes with task=test; a run is continued with resume=RUN_DIR")
    if task == "test" and not isinstance(checkpoint, str):
        raise Refusal(f"checkpoint={checkpoint}: must be a file")
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
        place = Path(path).expanduser()
        if not (place.is_dir() if name == "folder" else place.is_file()):
            raise Refusal(f"data.path={path}: no such {'folder' if name == 'folder' else 'file'}")
    count = data.get("images") if name == "shapes" else TRAINING_IMAGES.get(name)
    if count is not None and data["val_size"] >= count:
        raise Refusal(
            f"data.val_size={data['val_size']}: larger than the data, which has {count} training images;"
            f" use a value below {count}"
        )


def lay_over(saved: Config, composed: Config, overrides: list[Override]) -> Config:
    """``saved`` with each typed group and key taken from ``composed``; keys that it lacks likewise."""
    config = {**composed, **{key: value for key, value in saved.items() if key in composed}}
    for key in ("trainer", "early_stopping"):
        if isinstance(config.get(key), dict):
            config[key] = {**composed[key], **config[key]}
    for fixed in ("task", "resume", "checkpoint", "runs"):
        if (fixed in composed and fixed != "checkpoint") or isinstance(composed.get(fixed), str):
            config[fixed] = composed[fixed]
    for override in overrides:
        path = override.key_or_group.split("@")[0].replace("/", ".").split(".")
        if path[0] in ("hydra", "experiment"):
            continue
        source: Any = composed
        target: Any = config
        for name in path[:-1]:
            source, target = source[name], target.setdefault(name, {})
        if path[-1] in source:
            target[path[-1]] = source[path[-1]]
        else:
            target.pop(path[-1], None)
    return config


def saved_config(run_dir: Path) -> Config:
    """The config that a run directory keeps."""
    file = run_dir / "config.yaml"
    if not run_dir.is_dir():
        raise Refusal(f"resume={run_dir}: no such run directory")
    if not file.is_file():
        raise Refusal(f"resume={run_dir}: not a run directory: it has no config.yaml")
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise Refusal(f"{file}: cannot be read ({error})") from None
    return checked_stranger(config, str(file))


def refuse_other_files(path: Path) -> None:
    """Raise Refusal where ``path`` cannot be a checkpoint; needs no torch."""
    if not path.exists():
        raise Refusal(f"checkpoint={path}: no such file")
    if not path.is_file():
        raise Refusal(f"checkpoint={path}: not a file; use {path}/checkpoints/best.ckpt")
    if not zipfile.is_zipfile(path):
        raise Refusal(f"{path}: not a checkpoint of smallvision, or truncated")


def checked_stranger(config: Any, file: str) -> Config:
    """A config out of a file, if it has the form of one."""
    sections = ("trainer", "early_stopping", *GROUPS)
    if not isinstance(config, dict) or not all(isinstance(config.get(name), dict) for name in sections):
        raise Refusal(f"{file}: does not hold the config of a run")
    return config


def _plain(composed: DictConfig) -> Config:
    """Resolved; Hydra's own node left out; a mandatory value that is missing becomes a refusal."""
    visible = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    missing = sorted(OmegaConf.missing_keys(visible))
    if missing:
        raise Refusal(f"{missing[0]}: needs a value; type {missing[0]}=VALUE")
    try:
        plain = OmegaConf.to_container(visible, resolve=True)
    except OmegaConfBaseException as error:
        raise Refusal(str(error).splitlines()[0]) from None
    assert isinstance(plain, dict)
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
        if first not in allowed or (key == "data" and "resume" in allowed):
            raise Refusal(f"{key}: cannot be changed here: {reason}")
