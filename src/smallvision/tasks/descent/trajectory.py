"""The points that an optimizer visits on a function, computed with the optimizers and schedules of training."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from smallvision.config.schema import Config
from smallvision.config.targets import instantiate
from smallvision.core.errors import UserError
from smallvision.tasks.descent.functions import Function, Point
from smallvision.training.optimizers import make_optimizer
from smallvision.training.schedules import at_step

CONVERGED = 0.01  # fraction of the distance that remains
DIVERGED = 2.0  # times the initial gap


@dataclass(frozen=True)
class Trajectory:
    """``points`` and their ``values``, the start first; ``lrs[k]`` is the learning rate of step k + 1.

    It has fewer than ``steps`` steps where the next value would have been NaN or infinite.
    """

    function: Function
    label: str
    steps: int
    points: list[Point]
    values: list[float]
    lrs: list[float]

    @cached_property
    def gap(self) -> list[float]:
        """How far each value lies above the minimum."""
        return [value - self.function.lowest for value in self.values]

    @cached_property
    def nearest_minimum(self) -> Point:
        """The minimum nearest to the last point."""
        return self.function.nearest_minimum(self.points[-1])

    @cached_property
    def distance(self) -> float:
        """From the last point to the nearest minimum."""
        return math.dist(self.points[-1], self.nearest_minimum)

    @cached_property
    def remaining(self) -> list[float]:
        """At each point, the distance to ``nearest_minimum`` as a fraction of the start's; infinite if that is 0."""
        distances = [math.dist(point, self.nearest_minimum) for point in self.points]
        return [one / distances[0] if distances[0] else math.inf if one else 0.0 for one in distances]

    @cached_property
    def diverged_after(self) -> int | None:
        """The last step whose value was no higher than the start's, plus one, if the end is far above it."""
        # One that starts at a minimum may end a little above it, so the gap of the usual start counts as well.
        usual = self.function.at(self.function.start) - self.function.lowest
        far = DIVERGED * max(self.gap[0], 0.01 * usual)
        if len(self.lrs) == self.steps and self.gap[-1] <= far:
            return None
        return max(step for step, gap in enumerate(self.gap) if gap <= self.gap[0]) + 1

    @cached_property
    def converged_after(self) -> int | None:
        """The step from which on at most 1 % of the distance remains, to the end."""
        if self.diverged_after is not None or self.remaining[-1] > CONVERGED:
            return None
        return max((step + 1 for step, left in enumerate(self.remaining) if left > CONVERGED), default=0)


class Descent(nn.Module):
    """A model whose only weight, 1 x 1 or 1 x 2 in float64, is a point, and whose loss is the function there."""

    def __init__(self, config: Config, function: Function, start: Point) -> None:
        super().__init__()
        self.function = function
        self.point = nn.Parameter(torch.tensor([start], dtype=torch.float64))
        self.clip_value = config.trainer.gradient_clip_val
        self.clip_algorithm = config.trainer.gradient_clip_algorithm

    def closure(self) -> Tensor:
        """One forward and backward pass with the gradient clipped as in training."""
        self.zero_grad()
        loss = self.function.value(self.point).sum()
        loss.backward()
        if self.clip_value is not None and self.clip_algorithm == "value":
            nn.utils.clip_grad_value_(self.parameters(), self.clip_value)
        elif self.clip_value is not None:
            nn.utils.clip_grad_norm_(self.parameters(), self.clip_value)
        return loss


def descend(config: Config, function: Function, start: Point, steps: int, label: str) -> Trajectory:
    """The trajectory under the optimizer, schedule, parameter groups and clipping of ``config``, in float64 on the CPU.

    Raises UserError where the optimizer rejects a value.
    """
    model = Descent(config, function, start)
    optimizer = make_optimizer(config, model)
    schedule = at_step(instantiate("scheduler", config.scheduler), steps)
    initial = [group["lr"] for group in optimizer.param_groups]
    found = Trajectory(function, label, steps, [start], [function.at(start)], [])
    for step in range(steps):
        for group, lr in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = lr * schedule(step)
        try:
            optimizer.step(model.closure)  # type: ignore[arg-type]  # LBFGS calls it several times
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(f"optimizer={config.optimizer.name}: {str(error).splitlines()[0]}") from error
        point = tuple(model.point[0].tolist())
        value = function.at(point)
        if not math.isfinite(value):
            break
        found.points.append(point)
        found.values.append(value)
        found.lrs.append(optimizer.param_groups[0]["lr"])
    return found
