"""The allow-list: the only things that a config or a checkpoint can cause to be built.

Hydra's ``instantiate`` is never used: it would call whatever a file names.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, Protocol

from smallvision.config.schema import Config
from smallvision.core.errors import UserError, did_you_mean

# Section of the config: modules whose own public names it may name in `_target_` (.*: those of a package), and for
# modules that are not ours the class that it must derive from.
ALLOWED: dict[str, tuple[str, ...]] = {
    "data": ("smallvision.data.standard", "smallvision.data.digits", "smallvision.data.shapes",
             "smallvision.data.arrays", "smallvision.data.folder"),
    "model": ("smallvision.models",),
    "optimizer": ("torch.optim",),
    "scheduler": ("smallvision.training.schedules",),
    "callbacks": ("smallvision.training.callbacks.*", "lightning.pytorch.callbacks"),
    "logger": ("lightning.pytorch.loggers",),
}  # fmt: skip
BASES = {
    "model": ("torch.nn", "Module"),
    "optimizer": ("torch.optim", "Optimizer"),
    "callbacks": ("lightning.pytorch.callbacks", "Callback"),
    "logger": ("lightning.pytorch.loggers", "Logger"),
}
# Of a module of which not everything is allowed. Other callbacks of Lightning's choose folders to write to.
NAMES = {
    "lightning.pytorch.callbacks": (
        "DeviceStatsMonitor", "EarlyStopping", "EMAWeightAveraging", "GradientAccumulationScheduler",
        "LearningRateMonitor", "ModelSummary", "StochasticWeightAveraging", "Timer", "WeightAveraging",
    ),
}  # fmt: skip
NOT_ARGUMENTS = ("name", "_target_")


class Buildable(Protocol):
    """A section with a target: ``Data``, ``Model``, ``Optimizer``, ``Scheduler``, ``Logger``."""

    def to_dict(self) -> dict[str, Any]: ...


def check_targets(config: Config) -> None:
    """Raise UserError where a section names what is not on the list. Imports nothing."""
    for section in ("data", "model", "optimizer", "scheduler", "logger"):
        target = getattr(config, section).target
        if target is not None or section != "logger":
            check_target(section, target)
    for name, callback in config.callbacks.items():
        if callback is not None:
            check_target("callbacks", callback.get("_target_"), f"callbacks.{name}")
    if config.optimizer.rest is not None:
        check_target("optimizer", config.optimizer.rest.target, "optimizer.rest")


def check_target(section: str, target: Any, key: str | None = None) -> tuple[str, str]:
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
    section: str, config: Buildable | dict[str, Any], /, *args: Any, key: str | None = None, **runtime: Any
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


def resolve(section: str, target: Any, key: str | None = None) -> Callable[..., Any]:
    """The allowed class or function itself. ``key`` as in :func:`check_target`."""
    where = key or section
    module, name = check_target(section, target, key)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise UserError(f"{where}._target_={target}: cannot be imported ({error})") from None
    if section in BASES:
        base = getattr(importlib.import_module(BASES[section][0]), BASES[section][1])
        fits = inspect.isclass(found) and issubclass(found, base)
    else:
        fits = inspect.isfunction(found) and found.__module__ == module
    if not fits or found is None:
        raise UserError(f"{where}._target_={target}: there is no such {section}")
    return found
