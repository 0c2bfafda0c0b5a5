"""The allow-list: the only things that a config or a checkpoint can cause to be built.

Hydra's ``instantiate`` is never used: it would call whatever a file names.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from smallvision.config.schema import Config, Logger, RestOptimizer, Target
from smallvision.core.errors import UserError, did_you_mean

# Section of the config: modules whose own public names it may name in `_target_` (.*: those of a package).
ALLOWED: dict[str, tuple[str, ...]] = {
    "data": ("smallvision.data.standard", "smallvision.data.digits", "smallvision.data.shapes",
             "smallvision.data.arrays", "smallvision.data.folder"),
    "model": ("smallvision.models",),
    "optimizer": ("torch.optim",),
    "scheduler": ("smallvision.training.schedules",),
    "callbacks": ("smallvision.training.callbacks.*", "lightning.pytorch.callbacks"),
    "logger": ("lightning.pytorch.loggers",),
}  # fmt: skip
# Of a module of which not everything is allowed. Other callbacks of Lightning's choose folders to write to.
NAMES = {
    "lightning.pytorch.callbacks": (
        "DeviceStatsMonitor", "EarlyStopping", "EMAWeightAveraging", "GradientAccumulationScheduler",
        "LearningRateMonitor", "ModelSummary", "StochasticWeightAveraging", "Timer", "WeightAveraging",
    ),
}  # fmt: skip
NOT_ARGUMENTS = ("name", "_target_")


def check_targets(config: Config) -> None:
    """Raise UserError where a section names what is not on the list. Imports nothing."""
    for section in ("data", "model", "optimizer", "scheduler"):
        check_target(section, getattr(config, section).target)
    if config.logger.target is not None:
        check_target("logger", config.logger.target)
    for name, callback in config.callbacks.items():
        if callback is not None:
            check_target("callbacks", callback.get("_target_"), f"callbacks.{name}")
    if config.optimizer.rest is not None:
        check_target("optimizer", config.optimizer.rest.target, "optimizer.rest")


def check_target(section: str, target: object, key: str | None = None) -> tuple[str, str]:
    """``(module, name)`` of an allowed target; UserError for any other, without importing anything.

    ``key``: where the config has it, if not at the section's name.
    """
    module, _, name = str(target).rpartition(".")
    public = name.isidentifier() and not name.startswith("_") and name in NAMES.get(module, (name,))
    package, _, file = module.rpartition(".")
    if not public or not (module in ALLOWED[section] or (f"{package}.*" in ALLOWED[section] and file.isidentifier())):
        allowed = " or ".join(f"{one}.{'|'.join(NAMES.get(one, ('NAME',)))}" for one in ALLOWED[section])
        raise UserError(
            f"{key or section}._target_={target}: not allowed here; a {section.removesuffix('s')} is {allowed}"
        )
    return module, name


def instantiate(
    section: str,
    config: Target | RestOptimizer | Logger | dict[str, object],
    /,
    *args: object,
    key: str | None = None,
    **runtime: object,
) -> Any:
    """Call what ``_target_`` names with the section's other keys.

    ``args`` and ``runtime`` are what only the running program knows (parameters, image size); a runtime
    argument that the target does not take is left out. ``key`` as in :func:`check_target`.

    Raises UserError where the target is not on the list, an argument does not exist, or the target itself
    finds a value impossible.
    """
    plain = config if isinstance(config, dict) else config.to_dict()
    where = key or section
    target = resolve(section, plain["_target_"], where)
    arguments = {name: value for name, value in plain.items() if name not in NOT_ARGUMENTS}
    known = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        runtime = {name: value for name, value in runtime.items() if name in known}
        for name in arguments:
            if name not in known or name in runtime:
                choices = [one for one in known if one not in runtime]
                raise UserError(f"{where}.{name}: no such key.{did_you_mean(name, choices)}")
    try:
        return target(*args, **arguments, **runtime)
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        raise UserError(f"{where}={plain.get('name', plain['_target_'])}: {error}") from error


def resolve(section: str, target: object, key: str | None = None) -> Callable[..., object]:
    """The allowed class or function itself. ``key`` as in :func:`check_target`."""
    module, name = check_target(section, target, key)
    try:
        found: object = getattr(importlib.import_module(module), name, None)
        base = _base_class(section)
    except ImportError as error:
        raise UserError(f"{key or section}._target_={target}: cannot be imported ({error})") from None
    if base is not None and inspect.isclass(found) and issubclass(found, base):
        return found
    if base is None and inspect.isfunction(found) and found.__module__ == module:
        return found
    raise UserError(f"{key or section}._target_={target}: there is no such {section}")


def _base_class(section: str) -> type | None:
    """What a target of the section must derive from; None: it is a function of an allowed module."""
    if section == "model":
        from torch import nn

        return nn.Module
    if section == "optimizer":
        from torch import optim

        return optim.Optimizer
    if section == "callbacks":
        from lightning.pytorch import callbacks

        return callbacks.Callback
    if section == "logger":
        from lightning.pytorch import loggers

        return loggers.Logger
    return None
