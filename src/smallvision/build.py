"""The allow-list: the only things that a config or a checkpoint can cause to be built.

Hydra's ``instantiate`` is never used: it would call whatever a file names.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any

from smallvision.errors import Refusal, did_you_mean

# Section of the config: modules whose own public names it may name in `_target_`. For what is not ours,
# the class that it must derive from.
ALLOWED: dict[str, tuple[str, ...]] = {
    "data": ("smallvision.data.idx", "smallvision.data.cifar10", "smallvision.data.digits",
             "smallvision.data.shapes", "smallvision.data.npz", "smallvision.data.folder"),
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


def check_target(section: str, target: Any) -> tuple[str, str]:
    """``(module, name)`` of an allowed target; Refusal for any other, without importing anything."""
    module, _, name = str(target).rpartition(".")
    if module not in ALLOWED[section] or not name.isidentifier() or name.startswith("_"):
        allowed = " or ".join(f"{module}.NAME" for module in ALLOWED[section])
        raise Refusal(f"{section}._target_={target}: not allowed here; a {section} is {allowed}")
    return module, name


def build(section: str, config: dict[str, Any], *args: Any, **runtime: Any) -> Any:
    """Call what ``config["_target_"]`` names with the section's other keys.

    ``args`` and ``runtime`` are what only the running program knows (parameters, image size); a runtime
    argument that the target does not take is left out.

    Raises Refusal where the target is not on the list, an argument does not exist, or the target itself
    finds a value impossible.
    """
    target = resolve(section, config["_target_"])
    arguments = {key: value for key, value in config.items() if key not in COMMON}
    known = inspect.signature(target).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        runtime = {key: value for key, value in runtime.items() if key in known}
        for key in arguments:
            if key not in known or key in runtime:
                choices = [name for name in known if name not in runtime]
                raise Refusal(f"{section}.{key}: no such key.{did_you_mean(key, choices)}")
    try:
        return target(*args, **arguments, **runtime)
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        raise Refusal(f"{section}={config.get('name')}: {error}") from error


def resolve(section: str, target: Any) -> Callable[..., Any]:
    """The allowed class or function itself."""
    module, name = check_target(section, target)
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise Refusal(f"{section}._target_={target}: cannot be imported ({error})") from None
    if section in BASES:
        base = getattr(importlib.import_module(BASES[section][0]), BASES[section][1])
        fits = inspect.isclass(found) and issubclass(found, base)
    else:
        fits = inspect.isfunction(found) and found.__module__ == module
    if not fits or found is None:
        raise Refusal(f"{section}._target_={target}: there is no such {section}")
    return found
