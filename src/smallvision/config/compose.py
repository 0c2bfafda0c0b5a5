"""From what was typed to the one config that a run goes by."""

import os
import secrets
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smallvision.config import schema as rules
from smallvision.config.schema import GROUPS, Config
from smallvision.config.targets import ALLOWED, check_target
from smallvision.config.untrusted import check_checkpoint_file, saved_config, validate_untrusted_config
from smallvision.core.errors import UserError, did_you_mean

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


def resolve_config(composed: DictConfig, typed: list[str]) -> Config:
    """The resolved, checked config as plain dicts, lists, strings and numbers.

    ``composed``: what Hydra made of the ``typed`` overrides. With ``resume=`` or a task that takes a
    checkpoint, the run's own config is the ground and only what was typed is laid over it.

    Raises UserError for whatever no run could go by.
    """
    overrides = parse(typed)
    for override in overrides:
        if override.is_delete() and override.key_or_group != "experiment":
            raise UserError(f"~{override.key_or_group}: a key cannot be left out; set it, to null where it may be")
    config = _plain(composed)
    _check_present(config)
    if config["task"] == "fit" and config.get("resume") is not None:
        if not isinstance(config["resume"], str):
            raise UserError(f"resume={config['resume']}: must be a run directory")
        refuse_others(overrides, ON_RESUME, "resume continues the run as it was")
        config = merge_overrides(saved_config(Path(config["resume"])), config, overrides)
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
        raise UserError(f"checkpoint={config['checkpoint']}: must be a file")
    _check_packages(config)
    file = Path(config["checkpoint"])
    check_checkpoint_file(file)
    from smallvision.training import checkpoint
    from smallvision.training import state_dict as bare  # torch comes only now

    if task == "test" and checkpoint.is_bare(content := checkpoint.opened(file)):
        bare.refuse_endless(content, file)
        if not any(override.key_or_group in WITH_BARE_WEIGHTS for override in overrides):
            raise UserError(f"{file}: {bare.SAYS_NOTHING}; type model=NAME and data=NAME as well")
        return config
    saved = checkpoint.read(file)["smallvision"]["config"]
    refuse_others(overrides, allowed, reason)
    return merge_overrides(validate_untrusted_config(saved, str(file)), config, overrides)


def _check_stays_inside(save_model: str | None) -> None:
    """A config out of a file does not choose what is overwritten elsewhere."""
    if save_model is None:
        return
    path = Path(os.path.expanduser(save_model))  # noqa: PTH111 - Path's own raises for an unknown user
    if path.is_absolute() or ".." in path.parts:
        raise UserError(
            f"save_model={save_model}: lies outside of the run directory; if you want that, type it"
            f" on the command line: save_model={save_model}"
        )


def check(config: Config) -> None:
    """Everything that can be known to be wrong without torch."""
    rules.check(config)
    task, checkpoint = config["task"], config.get("checkpoint")
    if task not in TASKS:
        raise UserError(f"task={task}: no such task.{did_you_mean(task, TASKS)}")
    if task == "fit" and not isinstance(checkpoint, dict):
        tasks = ", ".join(WITH_CHECKPOINT)
        raise UserError(f"checkpoint={checkpoint}: goes with task={tasks}; a run is continued with resume=RUN_DIR")
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
        raise UserError(f"logger={config['logger']['name']}: needs a package: pip install {package}")
    if config.get("save_model") is not None and config["data"]["normalisation"]["whiten"]:
        raise UserError(
            f"save_model={config['save_model']}: a plain state dict has no place for"
            " data.normalisation.whiten; use task=export"
        )
    early, trainer = config["early_stopping"], config["trainer"]
    if early["patience"] is not None and config["data"]["val_size"] == 0:
        raise UserError("early_stopping.patience: needs validation images; set data.val_size above 0")
    if trainer["min_epochs"] is not None and trainer["min_epochs"] > trainer["max_epochs"]:
        raise UserError("trainer.min_epochs: must not be larger than trainer.max_epochs")


def _check_packages(config: Config) -> None:
    needs = EXPORTS.get(str(config.get("format")), ())
    if any(find_spec(package) is None for package in needs):
        raise UserError(f"format={config['format']}: needs packages: pip install {' '.join(needs)}")
    if config["task"] == "serve" and any(find_spec(module) is None for module in SERVING):
        raise UserError(f"task=serve: needs packages: pip install {' '.join(SERVING.values())}")


def _check_data(data: Config) -> None:
    path, name = data.get("path"), data["name"]
    if isinstance(path, str):
        place = os.path.expanduser(path)  # noqa: PTH111 - Path's own raises for an unknown user
        if not (os.path.isdir(place) if name == "folder" else os.path.isfile(place)):  # noqa: PTH112, PTH113
            raise UserError(f"data.path={path}: no such {'folder' if name == 'folder' else 'file'}")
    count = data.get("images") if name == "shapes" else TRAINING_IMAGES.get(name)
    if count is not None and data["val_size"] >= count:
        raise UserError(
            f"data.val_size={data['val_size']}: larger than the data, which has {count} training images;"
            f" use a value below {count}"
        )


def _plain(composed: DictConfig) -> Config:
    """Resolved, without the nodes of Hydra and of sweeps; a mandatory value that is missing is refused."""
    try:
        visible = OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in ("hydra", "sweep")])
        missing = sorted(OmegaConf.missing_keys(visible))
        if missing:
            raise UserError(f"{missing[0]}: needs a value; type {missing[0]}=VALUE")
        plain = OmegaConf.to_container(visible, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'}: {str(error).splitlines()[0][:200]}") from None
    assert isinstance(plain, dict)
    if plain.get("experiment") is not None:
        raise UserError("experiment: has keys of its own; its file must open with # @package _global_")
    plain.pop("experiment", None)
    return {str(key): value for key, value in plain.items()}


def _check_present(config: Config) -> None:
    for key in ("task", "seed", "data_dir", *GROUPS, "trainer", "early_stopping"):
        if config.get(key) is None:
            raise UserError(f"{key}: cannot be left out")


CHOICES = (*GROUPS, "task", "experiment")
# Keys and sections that may be typed with resume=: those that leave what was learnt, and the images that
# it was learnt from and chosen by, as they are.
ON_RESUME = (
    "resume", "data_dir", "data.path", "data.offline", "data.eval_batch_size", "data.augmentation", "trainer",
    "optimizer", "loss", "scheduler", "device", "logger", "early_stopping", "checkpoint", "report",
    "save_model", "log_every_n_batches", "hydra",
)  # fmt: skip
# Keys of groups that the first checkpoints do not have; their defaults change nothing.
YOUNGER = {
    "device": ("compile",),
    "data": ("shuffle",),
    "data.augmentation": ("rotate", "scale"),
    "data.normalisation": ("whiten",),
}
# Tasks that take a checkpoint, which says the rest, and the keys and sections that may be typed with each.
WITH_CHECKPOINT = {
    "test": ("task", "checkpoint", "data_dir", "data", "tta", "device", "trainer", "report", "hydra"),
    "predict": ("task", "checkpoint", "images", "predict", "tta", "device", "hydra"),
    "export": ("task", "checkpoint", "format", "data_dir", "data", "tta", "device", "hydra"),
    "serve": ("task", "checkpoint", "serve", "tta", "device", "hydra"),
}


# May be typed with task=test where the file is a bare state dict, which says nothing of its network.
WITH_BARE_WEIGHTS = ("model", "experiment")


def parse(typed: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(typed)
    except (ValueError, AssertionError, RecursionError) as error:  # Hydra's parser gives way
        raise UserError(f"{' '.join(typed)[:200]}: not understood ({error})") from None


def refuse_others(overrides: list[Override], allowed: tuple[str, ...], reason: str) -> None:
    """Raise UserError where something else than the ``allowed`` keys and sections was typed."""
    for override in overrides:
        key = override.key_or_group.split("@")[0].replace("/", ".")
        if not any(key == one or key.startswith(f"{one}.") for one in allowed):
            raise UserError(f"{key}: cannot be changed here: {reason}")


def loosened(typed: list[str]) -> list[str]:
    """The same overrides, for Hydra, of a run that continues or of a checkpoint.

    What Hydra composes then is not the run's own config and may lack a key that this has. So values are
    forced in; :func:`lay_over` holds them against the run's own keys.
    """
    overrides = parse(typed)
    given = {override.key_or_group: override.value() for override in overrides if not override.is_delete()}
    if given.get("resume") is None and str(given.get("task")) not in WITH_CHECKPOINT:
        return typed
    plain = [line[:1] not in "+~" and o.key_or_group not in CHOICES for o, line in zip(overrides, typed, strict=True)]
    return [f"++{o.input_line}" if forced else line for o, forced, line in zip(overrides, plain, typed, strict=True)]


def merge_overrides(saved: Config, composed: Config, overrides: list[Override]) -> Config:
    """``saved`` with every typed group and key taken from ``composed``, and with keys that it lacks.

    Raises UserError where a typed key is in no run of that kind.
    """
    config = {**composed, **{key: value for key, value in saved.items() if key in composed}}
    config = _with_younger_keys(config, composed)
    for key in ("task", "resume"):
        config[key] = composed[key]
    if isinstance(composed.get("checkpoint"), str):
        config["checkpoint"] = composed["checkpoint"]
    kind = _kind(saved["optimizer"])
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
        if not isinstance(source, dict) or path[-1] not in source or not (path[-1] in known or override.is_add()):
            near = did_you_mean(path[-1], known, prefix=".".join([*path[:-1], ""]))
            raise UserError(f"{override.key_or_group}: no such key.{near}")
        target[path[-1]] = source[path[-1]]
    if _kind(config["optimizer"]) != kind:
        raise UserError(f"optimizer: a run keeps its kind ({kind}); its values can change: optimizer.lr=VALUE")
    return config


def _kind(optimizer: Any) -> str:
    """What moves the weights, and what the rest of them."""
    rest = optimizer.get("rest") if isinstance(optimizer, dict) else None
    parts = [part["_target_"] for part in (optimizer, rest) if isinstance(part, dict) and "_target_" in part]
    return " and ".join(map(str, parts))


def _with_younger_keys(config: Config, composed: Config) -> Config:
    """``config`` with the keys that it lacks because a younger smallvision brought them."""
    config = {
        key: {**composed[key], **saved} if key not in GROUPS and _both(saved, composed.get(key)) else saved
        for key, saved in config.items()
    }
    for section, names in YOUNGER.items():
        *above, last = section.split(".")
        saved, young = config, composed
        for part in above:
            saved[part] = dict(saved[part]) if isinstance(saved.get(part), dict) else {}
            saved, young = saved[part], young[part]
        if isinstance(saved.get(last), dict):
            saved[last] = {
                **{name: young[last][name] for name in names if name in young[last]},
                **saved[last],
            }
    return config


def _both(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)
