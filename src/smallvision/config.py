"""From what was typed to the one config that a run goes by."""

import os
import secrets
from importlib.util import find_spec
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smallvision import rules
from smallvision.build import ALLOWED, check_target
from smallvision.errors import Refusal, did_you_mean
from smallvision.overrides import (
    GROUPS,
    ON_RESUME,
    WITH_BARE_WEIGHTS,
    WITH_CHECKPOINT,
    Config,
    lay_over,
    parse,
    refuse_others,
)
from smallvision.saved import checked_stranger, refuse_other_files, saved_config

# Known before the data are read.
TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "digits": 1_437}
# Logger: the module that it needs and the package that brings it.
LOGGERS = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "wandb": ("wandb", "wandb"),
}
# Format of task=export: the modules that it needs, which have the names of their packages.
EXPORTS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "safetensors": ("safetensors",)}
# Modules that task=serve needs, and their packages.
SERVING = {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
# Tasks whose data are the checkpoint's own past: they need not be here.
WITHOUT_DATA = ("predict", "export", "serve")
TASKS = ("fit", "test", "predict", "export", "serve", "report", "bench", "descent")
_SUFFIX = secrets.token_hex(3)

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
        refuse_others(overrides, ON_RESUME, "resume continues the run as it was")
        config = lay_over(saved_config(Path(config["resume"])), config, overrides)
    if str(config["task"]) in WITH_CHECKPOINT:
        config = _with_checkpoint(config, overrides)
    check(config)
    if not any(override.key_or_group == "save_model" for override in overrides):
        _check_stays_inside(config.get("save_model"))
    return config


def _with_checkpoint(config: Config, overrides: list[Override]) -> Config:
    """The config of what the checkpoint holds; of a bare state dict, the one that was typed."""
    task = str(config["task"])
    allowed, reason = WITH_CHECKPOINT[task], "the checkpoint says it"
    refuse_others(overrides, (*allowed, *WITH_BARE_WEIGHTS) if task == "test" else allowed, reason)
    if not isinstance(config["checkpoint"], str):
        raise Refusal(f"checkpoint={config['checkpoint']}: must be a file")
    _check_packages(config)
    file = Path(config["checkpoint"])
    refuse_other_files(file)
    from smallvision.training import bare, checkpoint  # torch comes only now

    if task == "test" and checkpoint.is_bare(content := checkpoint.opened(file)):
        bare.refuse_endless(content, file)
        if not any(override.key_or_group in WITH_BARE_WEIGHTS for override in overrides):
            raise Refusal(f"{file}: {bare.SAYS_NOTHING}; type model=NAME and data=NAME as well")
        return config
    saved = checkpoint.read(file)["smallvision"]["config"]
    refuse_others(overrides, allowed, reason)
    return lay_over(checked_stranger(saved, str(file)), config, overrides)


def _check_stays_inside(save_model: str | None) -> None:
    """A config out of a file does not choose what is overwritten elsewhere."""
    if save_model is None:
        return
    path = Path(os.path.expanduser(save_model))  # noqa: PTH111 - Path's own raises for an unknown user
    if path.is_absolute() or ".." in path.parts:
        raise Refusal(
            f"save_model={save_model}: lies outside of the run directory; if you want that, type it"
            f" on the command line: save_model={save_model}"
        )


def check(config: Config) -> None:
    """Everything that can be known to be wrong without torch."""
    rules.check(config)
    task, checkpoint = config["task"], config.get("checkpoint")
    if task not in TASKS:
        raise Refusal(f"task={task}: no such task.{did_you_mean(task, TASKS)}")
    if task == "fit" and not isinstance(checkpoint, dict):
        tasks = ", ".join(WITH_CHECKPOINT)
        raise Refusal(
            f"checkpoint={checkpoint}: goes with task={tasks}; a run is continued with resume=RUN_DIR"
        )
    for section in ALLOWED:
        target = config[section].get("_target_")
        if target is not None or section != "logger":
            check_target(section, target)
    if "rest" in config["optimizer"]:
        rest = config["optimizer"]["rest"]
        check_target("optimizer", rest.get("_target_") if isinstance(rest, dict) else rest, "optimizer.rest")
    if task not in WITHOUT_DATA:
        _check_data(config["data"])
    needs, package = LOGGERS.get(config["logger"]["name"], (None, None))
    if needs is not None and find_spec(needs) is None:
        raise Refusal(f"logger={config['logger']['name']}: needs a package: pip install {package}")
    if config.get("save_model") is not None and config["data"]["normalisation"]["whiten"]:
        raise Refusal(
            f"save_model={config['save_model']}: a plain state dict has no place for"
            " data.normalisation.whiten; use task=export"
        )
    early, trainer = config["early_stopping"], config["trainer"]
    if early["patience"] is not None and config["data"]["val_size"] == 0:
        raise Refusal("early_stopping.patience: needs validation images; set data.val_size above 0")
    if trainer["min_epochs"] is not None and trainer["min_epochs"] > trainer["max_epochs"]:
        raise Refusal("trainer.min_epochs: must not be larger than trainer.max_epochs")


def _check_packages(config: Config) -> None:
    needs = EXPORTS.get(str(config.get("format")), ())
    if any(find_spec(package) is None for package in needs):
        raise Refusal(f"format={config['format']}: needs packages: pip install {' '.join(needs)}")
    if config["task"] == "serve" and any(find_spec(module) is None for module in SERVING):
        raise Refusal(f"task=serve: needs packages: pip install {' '.join(SERVING.values())}")


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


def _plain(composed: DictConfig) -> Config:
    """Resolved, without the nodes of Hydra and of sweeps; a mandatory value that is missing is refused."""
    try:
        visible = OmegaConf.masked_copy(
            composed, [str(key) for key in composed if key not in ("hydra", "sweep")]
        )
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
