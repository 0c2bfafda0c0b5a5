"""Whether a checkpoint fits the run that would go on from it: looked at before anything is taken over.

It matters: an optimizer's fused kernel writes past the end of a state that is smaller than its parameter.
"""

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from smallvision.core.errors import UserError


def validate_resume(
    checkpoint: dict[str, Any],
    trainer: pl.Trainer,
    module: pl.LightningModule,
    sums: dict[str, Tensor],
    after_a_step: dict[str, Any],
) -> None:
    """Raise UserError at the first part that is not what this run itself would have saved there.

    ``sums``: of the epoch; ``after_a_step``: see :func:`state_after_a_step`.
    """
    weights = module.state_dict()
    states: Any = checkpoint.get("optimizer_states")
    callbacks = checkpoint.get("callbacks")
    loops = checkpoint.get("loops")
    parts = {
        "state_dict": fits(weights, checkpoint["state_dict"]) and weights.keys() == checkpoint["state_dict"].keys(),
        "epoch_sums": fits(sums, checkpoint["smallvision"].get("epoch_sums")),
        "optimizer_states": fits([{}], states) and _moves(after_a_step, states[0]),
        "loops": isinstance(loops, dict) and _counts(trainer.fit_loop.state_dict(), loops.get("fit_loop")),
        "callbacks": isinstance(callbacks, dict)
        and all(
            fits(callback.state_dict(), callbacks.get(callback.state_key, callback.state_dict()))
            for callback in trainer.callbacks  # type: ignore[attr-defined]
        ),
    }
    for name, good in parts.items():
        if not good:
            raise UserError(f"{checkpoint['file']}: its {name} do not fit this run")


def state_after_a_step(make_optimizer: Callable[[nn.Module], Optimizer], network: nn.Module) -> dict[str, Any]:
    """What the optimizer keeps of each parameter once it has begun; the network stays as it is."""
    network = copy.deepcopy(network)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer = make_optimizer(network)
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
