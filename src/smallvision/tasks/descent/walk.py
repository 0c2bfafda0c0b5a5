"""One optimizer's way down a function, made with what trains networks."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from smallvision.config.schema import Config
from smallvision.config.targets import build
from smallvision.core.errors import UserError
from smallvision.tasks.descent.functions import Function, Place, between
from smallvision.training.optimizers import make_optimizer
from smallvision.training.schedules import at_step

NEAR = 0.01  # of the way is left: there


class Point(nn.Module):
    """A network of one weight, 1 x 1 or 1 x 2: the place. Its output is the function's value there."""

    def __init__(self, function: Function, start: Place) -> None:
        super().__init__()
        self.function = function
        self.place = nn.Parameter(torch.tensor([start], dtype=torch.float64))

    def forward(self) -> Tensor:
        return self.function.value(self.place).sum()


@dataclass(frozen=True)
class Walk:
    """Where an optimizer was after each step, the start first; ``rates[k]``: of step k + 1.

    A walk ends at the last place whose value is a number; ``cut``: that was before its last step.
    """

    function: Function
    label: str
    places: list[Place]
    values: list[float]
    rates: list[float]
    cut: bool

    @cached_property
    def heights(self) -> list[float]:
        """Above the minimum, after each step."""
        return [self.function.height(value) for value in self.values]

    @cached_property
    def diverged(self) -> int | None:
        """The step after which it was never again as low as at its start, if it ends far above that."""
        start = self.heights[0]
        # Who starts at the minimum itself may end a little above it.
        ground = max(start, 0.01 * self.function.height(self.function.at(self.function.start)))
        if not self.cut and self.heights[-1] <= 2 * ground:
            return None
        lower = [step for step, height in enumerate(self.heights) if height <= start]
        return lower[-1] + 1

    @cached_property
    def distance(self) -> float:
        """From its end to the nearest minimum."""
        return self.function.distance(self.places[-1])

    @cached_property
    def goal(self) -> Place:
        """The minimum that its end is nearest to."""
        return min(self.function.minima, key=lambda minimum: between(minimum, self.places[-1]))

    @cached_property
    def left(self) -> list[float]:
        """After each step, the share of the way from the start to its goal that is left."""
        ways = [between(place, self.goal) for place in self.places]
        return [way / ways[0] if ways[0] else math.inf if way else 0.0 for way in ways]

    @cached_property
    def settled(self) -> int | None:
        """The step from which on no more than 1 % of the way is left, to the end."""
        if self.diverged is not None or self.left[-1] > NEAR:
            return None
        away = [step for step, left in enumerate(self.left) if left > NEAR]
        return away[-1] + 1 if away else 0


def walk(config: Config, section: dict[str, Any], function: Function, start: Place, steps: int, label: str) -> Walk:
    """The way of the optimizer of that ``section`` under the schedule, parameter groups and clipping of
    ``config``, in float64 on the CPU.

    Raises UserError where a value is impossible.
    """
    point = Point(function, start)
    optimizer = make_optimizer({**config, "optimizer": section}, point, dict)
    factor_at = at_step(build("scheduler", config["scheduler"]), steps)
    initial = [group["lr"] for group in optimizer.param_groups]
    clip, algorithm = (config["trainer"].get(f"gradient_clip_{name}") for name in ("val", "algorithm"))

    def closure() -> Tensor:
        optimizer.zero_grad()
        value: Tensor = point()
        value.backward()
        if clip is not None and algorithm == "value":
            nn.utils.clip_grad_value_(point.parameters(), clip)
        elif clip is not None:
            nn.utils.clip_grad_norm_(point.parameters(), clip)
        return value

    places, values = [start], [function.at(start)]
    rates: list[float] = []
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, initial, strict=True):
            group["lr"] = rate * factor_at(step)
        try:
            optimizer.step(closure)  # type: ignore[arg-type]  # LBFGS calls it several times
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(f"optimizer={section['name']}: {str(error).splitlines()[0]}") from error
        place = tuple(point.place.detach()[0].tolist())
        value = function.at(place)
        if not math.isfinite(value):
            return Walk(function, label, places, values, rates, cut=True)
        places.append(place)
        values.append(value)
        rates.append(optimizer.param_groups[0]["lr"])
    return Walk(function, label, places, values, rates, cut=False)
