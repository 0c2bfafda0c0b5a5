"""The allow-list: the only things that a config or a checkpoint can cause to be built.

Hydra's ``instantiate`` is never used: it would call whatever a file names. The list grows only by ``use=``, which a
person types or this project's own configs hold.
"""

import importlib
import inspect
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from smallvision.config.schema import Config, Logger, RestOptimizer, Target
from smallvision.core.errors import UserError, did_you_mean

# Section of the config: modules whose own public names it may name in `_target_` (.*: those of a package).
ALLOWED: dict[str, tuple[str, ...]] = {
    "data": ("smallvision.data.standard", "smallvision.data.digits", "smallvision.data.shapes",
             "smallvision.data.arrays", "smallvision.data.folder"),
    "model": ("smallvision.models",),
    "loss": ("torch.nn",),
    "optimizer": ("torch.optim",),
    "scheduler": ("smallvision.training.schedules", "torch.optim.lr_scheduler"),
    "module": ("smallvision.training.classifier",),
    "callbacks": ("smallvision.training.callbacks.*", "lightning.pytorch.callbacks"),
    "logger": ("lightning.pytorch.loggers",),
}  # fmt: skip
# Of a module of which not everything is allowed. Other callbacks of Lightning's choose folders to write to; other
# losses do not take logits and class numbers.
NAMES = {
    "torch.nn": ("CrossEntropyLoss", "MultiMarginLoss"),
    "smallvision.training.classifier": ("Classifier",),
    "lightning.pytorch.callbacks": (
        "DeviceStatsMonitor", "EarlyStopping", "EMAWeightAveraging", "GradientAccumulationScheduler",
        "LearningRateMonitor", "ModelSummary", "Timer", "WeightAveraging",
    ),
}  # fmt: skip
NOT_ARGUMENTS = ("name", "_target_")
OWN_FUNCTIONS = ("data", "model")  # sections in which a function of one's own may stand; elsewhere a class
# What use= cannot name: the packages that this project needs, beside Python's own. Some of their functions run what a
# file says.
NOT_OWN = (
    "smallvision", "torch", "torchvision", "torchmetrics", "lightning", "hydra", "omegaconf", "numpy", "optuna",
    "sqlalchemy", "matplotlib", "PIL", "rich", "yaml", "filelock", "sklearn",
)  # fmt: skip

_used: tuple[str, ...] = ()


def use(packages: Sequence[str]) -> None:
    """Allow the public classes and functions that these packages and modules define, and those of earlier calls no
    more. They are found in the working directory or the environment.

    ``packages``: what a person typed or what this project's own configs hold, never what another file does. Raises
    UserError where one is not there or is none of the user's own. Imports nothing.
    """
    global _used
    _used = ()
    if packages and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in packages:
        root, *others = name.split(".")
        if not all(part.isidentifier() and not part.startswith("_") for part in (root, *others)):
            raise UserError(f"use={name}: must be the name of a package or module, such as mypackage or mypackage.nets")
        if root in NOT_OWN or root in sys.stdlib_module_names:
            raise UserError(f"use={name}: not code of your own, which is all that use= is for")
        if find_spec(root) is None:
            raise UserError(f"use={name}: no package or module of that name in {Path.cwd()} or the environment")
    _used = tuple(packages)


def import_used(config: Config) -> None:
    """Import what the config names of the user's own code, so that a mistake there is refused before data are read."""
    for section, target, key in named_targets(config):
        if is_own(target):
            resolve(section, target, key)


def is_own(target: object) -> bool:
    """Whether a target is of one of the modules in use."""
    return belongs(str(target).rpartition(".")[0])


def belongs(module: str) -> bool:
    """Whether a module is one of those in use, or within one."""
    return any(module == name or module.startswith(f"{name}.") for name in _used)


def check_targets(config: Config) -> None:
    """Raise UserError where a section names what is not on the list. Imports nothing."""
    for section, target, key in named_targets(config):
        check_target(section, target, key)


def named_targets(config: Config) -> Iterator[tuple[str, object, str]]:
    """The section, the target and the key of each ``_target_`` in the config."""
    for section in ("data", "model", "loss", "optimizer", "scheduler", "module", "logger"):
        target = getattr(config, section).target
        if target is not None:  # of a logger
            yield section, target, section
    for name, callback in config.callbacks.items():
        if callback is not None:
            yield "callbacks", callback.get("_target_"), f"callbacks.{name}"
    if config.optimizer.rest is not None:
        yield "optimizer", config.optimizer.rest.target, "optimizer.rest"


def check_target(section: str, target: object, key: str | None = None) -> tuple[str, str]:
    """``(module, name)`` of an allowed target; UserError for any other, without importing anything.

    ``key``: where the config has it, if not at the section's name.
    """
    module, _, name = str(target).rpartition(".")
    public = name.isidentifier() and not name.startswith("_") and name in NAMES.get(module, (name,))
    package, _, file = module.rpartition(".")
    listed = module in ALLOWED[section] or (f"{package}.*" in ALLOWED[section] and file.isidentifier())
    if not public or not (listed or belongs(module)):
        allowed = " or ".join(f"{one}.{'|'.join(NAMES.get(one, ('NAME',)))}" for one in ALLOWED[section])
        kind = section if section == "loss" else section.removesuffix("s")
        raise UserError(
            f"{key or section}._target_={target}: not allowed here; a {kind} is {allowed}, or of your own code:"
            " type use=PACKAGE as well"
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
        built = target(*args, **arguments, **runtime)
    except UserError:
        raise
    except (TypeError, ValueError, ArithmeticError, RuntimeError, ImportError) as error:
        raise UserError(f"{where}={plain.get('name', plain['_target_'])}: {error}{_line_of(error)}") from error
    except Exception as error:
        if not belongs(target.__module__):
            raise
        raise UserError(f"{where}={plain['_target_']}: {_described(error)}") from error
    base = _base_class(section)
    if section == "model" and base is not None and not isinstance(built, base):
        raise UserError(f"{where}={plain['_target_']}: gave a {type(built).__name__}, must give a torch.nn.Module")
    return built


def resolve(section: str, target: object, key: str | None = None) -> Callable[..., object]:
    """The allowed class or function itself. ``key`` as in :func:`check_target`."""
    module, name = check_target(section, target, key)
    where = f"{key or section}._target_={target}"
    try:
        found: object = getattr(importlib.import_module(module), name, None)
    except Exception as error:
        if belongs(module):
            raise UserError(f"{where}: cannot be imported: {_described(error)}") from error
        if isinstance(error, ImportError):
            raise UserError(f"{where}: cannot be imported ({error})") from None
        raise
    if belongs(module):
        return _own(section, found, where)
    base = _base_class(section)
    if base is not None and inspect.isclass(found) and issubclass(found, base):
        return found
    if section in ("data", "scheduler") and inspect.isfunction(found) and found.__module__ == module:
        return found
    raise UserError(f"{where}: there is no such {section}")


def _own(section: str, found: object, where: str) -> Callable[..., object]:
    """``found`` where it is a class or function that a package in use defines itself, of the section's kind."""
    if found is None:
        raise UserError(f"{where}: there is no such class or function")
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not belongs(found.__module__):
        raise UserError(f"{where}: not a class or function that {', '.join(_used)} itself defines")
    base = _base_class(section)
    if inspect.isfunction(found) and section in OWN_FUNCTIONS:
        return found
    if inspect.isclass(found) and (base is None or issubclass(found, base)):
        return found
    kind = f"a class that derives from {base.__module__}.{base.__qualname__}" if base else "a class"
    raise UserError(f"{where}: must be {kind}{' or a function' if section in OWN_FUNCTIONS else ''}")


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}{_line_of(error)}"


def _line_of(error: Exception) -> str:
    """Where in the user's own code an error came from."""
    if isinstance(error, SyntaxError):
        return ""  # its text has it
    specs = [spec for name in _used if (spec := find_spec(name.partition(".")[0])) is not None]
    own = tuple(str(place) for spec in specs for place in (spec.submodule_search_locations or (spec.origin,)))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(own)]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


def _base_class(section: str) -> type | None:
    """What a class in the section must derive from; None: anything."""
    if section in ("model", "loss"):
        from torch import nn

        return nn.Module
    if section == "optimizer":
        from torch import optim

        return optim.Optimizer
    if section == "scheduler":
        from torch.optim import lr_scheduler

        return lr_scheduler.LRScheduler
    if section == "module":
        from lightning.pytorch import LightningModule

        return LightningModule
    if section == "callbacks":
        from lightning.pytorch import callbacks

        return callbacks.Callback
    if section == "logger":
        from lightning.pytorch import loggers

        return loggers.Logger
    return None
