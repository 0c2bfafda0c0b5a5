"""Learning rates as pure functions of the step, so that any step's rate is known without the ones before.

Each takes its choices and gives a function from progress (0 at the first step, 1 after the last) to a
factor of the optimizer's learning rate.
"""

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from smallvision.config.schema import Scheduler
from smallvision.config.targets import instantiate, resolve

LRLambda = Callable[[float], float]
Curve = Callable[[float, float, float], float]  # of start, end and progress from one to the other


def constant(warmup: float = 0.0) -> LRLambda:
    """1, after a straight rise over the first ``warmup`` (a fraction of all steps)."""
    return partial(_factor, warmup, _line, 0, _line, 1)


def linear(warmup: float = 0.0, final_ratio: float = 0.0) -> LRLambda:
    """A straight line from 1 to ``final_ratio``, after the warm-up."""
    return partial(_factor, warmup, _line, 0, _line, final_ratio)


def cosine(warmup: float = 0.0, final_ratio: float = 0.0) -> LRLambda:
    """Half a cosine wave from 1 to ``final_ratio``, after the warm-up.

    Source: I. Loshchilov and F. Hutter, SGDR, arXiv:1608.03983, without its restarts.
    """
    return partial(_factor, warmup, _line, 0, _wave, final_ratio)


def one_cycle(warmup: float = 0.3, final_ratio: float = 0.0) -> LRLambda:
    """Cosine up from 1/25 to 1 over ``warmup``, cosine down to ``final_ratio`` (L. Smith, arXiv:1708.07120).

    The learning rate alone moves; momentum stays as it is.
    """
    return partial(_factor, warmup, _wave, 1 / 25, _wave, final_ratio)


def _factor(warmup: float, rise: Curve, start: float, fall: Curve, end: float, progress: float) -> float:
    """From ``start`` to 1 over ``warmup``, then to ``end``."""
    if progress < warmup:
        return rise(start, 1, progress / warmup)
    return fall(1, end, (progress - warmup) / (1 - warmup)) if warmup < 1 else 1.0


def _line(start: float, end: float, progress: float) -> float:
    return start + (end - start) * progress


def _wave(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def at_step(factor: LRLambda, steps: int) -> Callable[[int], float]:
    """From a step's number (0 is the first) of ``steps`` to its factor; beyond the end it stays.

    Half a step on: the first step of a rise is not 0 and the last step of a fall is not 0.
    """
    return lambda step: factor(min((step + 0.5) / steps, 1.0))


def make_scheduler(config: Scheduler, optimizer: Optimizer, steps: int) -> LRSchedulerConfigType:
    """The schedule of that section over ``steps``: one of those above, or a class of torch's or of the user's own,
    which gets ``total_steps`` where it takes them.
    """
    if not inspect.isclass(resolve("scheduler", config.target)):
        return {"scheduler": LambdaLR(optimizer, at_step(instantiate("scheduler", config), steps)), "interval": "step"}
    interval = config.interval or "step"
    arguments = config.without_own_keys()
    runtime: dict[str, Any] = {"total_steps": steps} if interval == "step" and "total_steps" not in arguments else {}
    scheduler: LRScheduler = instantiate("scheduler", arguments, optimizer, **runtime)
    if isinstance(scheduler, ReduceLROnPlateau):
        return {"scheduler": scheduler, "interval": "epoch", "monitor": "val/loss"}
    return {"scheduler": scheduler, "interval": interval}
