"""The allow-list: the only things that a config or a checkpoint can cause to be built.

Hydra's ``instantiate`` is never used: it would call whatever a file names.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from smallvision.core.errors import UserError, did_you_mean

# Section of the config: modules whose own public names it may name in `_target_`. For what is not ours,
# the class that it must derive from.
ALLOWED: dict[str, tuple[str, ...]] = {
    "data": ("smallvision.data.standard", "smallvision.data.digits",
             "smallvision.data.shapes", "smallvision.data.arrays", "smallvision.data.folder"),
    "model": ("smallvision.models",),
    "optimizer": ("torch.optim",),
    "scheduler": ("smallvision.training.schedules",),
    "logger": ("lightning.pytorch.loggers",),
}  # fmt: skip
BASES = {
    "model": ("torch.nn", "Module"),
    "optimizer": ("torch.optim", "Optimizer"),
    "logger": ("lightning.pytorch.loggers", "Logger"),
}
COMMON = ("name", "_target_")


def check_target(section: str, target: Any, key: str | None = None) -> tuple[str, str]:
    """``(module, name)`` of an allowed target; UserError for any other, without importing anything.

    ``key``: where the config has it, if not at the section's name.
    """
    module, _, name = str(target).rpartition(".")
    if module not in ALLOWED[section] or not name.isidentifier() or name.startswith("_"):
        allowed = " or ".join(f"{module}.NAME" for module in ALLOWED[section])
        raise UserError(f"{key or section}._target_={target}: not allowed here; a {section} is {allowed}")
    return module, name


def build(section: str, config: dict[str, Any], *args: Any, key: str | None = None, **runtime: Any) -> Any:
    """Call what ``config["_target_"]`` names with the section's other keys.

    ``args`` and ``runtime`` are what only the running program knows (parameters, image size); a runtime
    argument that the target does not take is left out. ``key`` as in :func:`check_target`.

    Raises UserError where the target is not on the list, an argument does not exist, or the target itself
    finds a value impossible.
    """
    where = key or section
    target = resolve(section, config["_target_"], where)
    arguments = {name: value for name, value in config.items() if name not in COMMON}
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
        raise UserError(f"{where}={config.get('name', config['_target_'])}: {error}") from error


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
