"""Whether a checkpoint fits the run that would continue it, checked before anything is taken from it.

It matters: an optimizer's fused kernel writes past the end of a state that is smaller than its parameter.
"""

import copy
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer

from smallvision.core.errors import UserError


def validate_resume(checkpoint: dict[str, Any], file: str, trainer: pl.Trainer, module: pl.LightningModule) -> None:
    """Raise UserError, naming the ``file``, at the first part that is not what this run itself would have saved."""
    weights = module.state_dict()
    callbacks = checkpoint.get("callbacks")
    loops = checkpoint.get("loops")
    parts = {
        "state_dict": fits(weights, checkpoint["state_dict"]) and weights.keys() == checkpoint["state_dict"].keys(),
        "loops": isinstance(loops, dict) and _counts(trainer.fit_loop.state_dict(), loops.get("fit_loop")),
        "callbacks": isinstance(callbacks, dict)
        and all(
            fits(callback.state_dict(), callbacks.get(callback.state_key, callback.state_dict()))
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        ),
    }
    _refuse_misfit(parts, file)


def validate_optimizers(checkpoint: dict[str, Any], file: str, trainer: pl.Trainer) -> None:
    """As :func:`validate_resume`, once the trainer has its optimizers and schedulers."""
    states: Any = checkpoint.get("optimizer_states")
    after_a_step = [state_after_a_step(optimizer) for optimizer in trainer.optimizers]
    schedulers = [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs]
    parts = {
        "optimizer_states": fits([{}] * len(after_a_step), states) and all(map(_moves, after_a_step, states)),
        "lr_schedulers": fits(schedulers, checkpoint.get("lr_schedulers"))
        and [one.keys() for one in schedulers] == [one.keys() for one in checkpoint["lr_schedulers"]],
    }
    _refuse_misfit(parts, file)


def _refuse_misfit(parts: dict[str, bool], file: str) -> None:
    for name, good in parts.items():
        if not good:
            raise UserError(f"{file}: its {name} do not fit this run")


def state_after_a_step(optimizer: Optimizer) -> dict[str, Any]:
    """What an optimizer keeps of each parameter once it has begun; it and its parameters stay as they are."""
    optimizer = copy.deepcopy(optimizer)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step(lambda: 0.0)
    return optimizer.state_dict()


def fits(own: Any, saved: Any) -> bool:
    """Whether ``saved`` has every key of ``own``, and there the same kind of thing in the same shape.

    A list of ``own`` says how ``saved`` begins.
    """
    if isinstance(own, dict):
        return isinstance(saved, dict) and all(key in saved and fits(own[key], saved[key]) for key in own)
    if isinstance(own, list):
        return isinstance(saved, list) and len(saved) >= len(own) and all(map(fits, own, saved))
    if isinstance(own, Tensor):
        return isinstance(saved, Tensor) and saved.shape == own.shape
    if isinstance(own, (bool, int, float)):
        return isinstance(saved, (bool, int, float))
    return own is None or isinstance(saved, type(own))


def _moves(own: dict[str, Any], saved: Any) -> bool:
    """Whether the same parameters in the same groups have states that fit."""
    groups = [{"params": group["params"]} for group in own["param_groups"]]
    if not fits({"state": {}, "param_groups": groups}, saved):
        return False
    if groups != [{"params": group["params"]} for group in saved["param_groups"][: len(groups)]]:
        return False
    return all(
        isinstance(state, dict) and fits(_without_unset(own["state"].get(index, {}), state), state)
        for index, state in saved["state"].items()
    )


def _without_unset(own: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
    """Without a momentum, say, that the saved run did without."""
    return {name: value for name, value in own.items() if saved.get(name, value) is not None}


def _counts(own: dict[str, Any], saved: Any) -> bool:
    """Whether it holds counts where this run does; other versions of Lightning have more or fewer of them."""
    if not isinstance(saved, dict):
        return False
    for name in own.keys() & saved.keys():
        if isinstance(own[name], dict):
            if not _counts(own[name], saved[name]):
                return False
        elif not fits(own[name], saved[name]):
            return False
    return True
