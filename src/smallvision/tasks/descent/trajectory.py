"""Functions to minimise, and the points that the optimizers and schedules of training visit on them."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.training.optimizers import make_optimizer
from smallvision.training.schedules import make_scheduler

CONVERGED = 0.01  # fraction of the distance that remains
DIVERGED = 2.0  # times the initial gap
Point = tuple[float, ...]


# Functions ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Function:
    """A function of one or two variables.

    ``of``: its value at x, or at x and y. ``formula`` is plain text and TeX math at once. ``start`` and ``steps`` are
    the defaults of a trajectory, ``view`` is the range of each axis that a plot shows at least, and ``lowest`` is the
    value at each of the ``minima``.
    """

    name: str
    formula: str
    of: Callable[..., Tensor]
    minima: tuple[Point, ...]
    start: Point
    steps: int
    view: tuple[tuple[float, float], ...]
    lowest: float = 0.0

    def value(self, points: Tensor) -> Tensor:
        """Points, ... x 1 or ... x 2, become their values, ... ."""
        return self.of(*points.unbind(-1))

    def at(self, point: Point) -> float:
        return float(self.value(torch.tensor(point, dtype=torch.float64)))

    def nearest_minimum(self, point: Point) -> Point:
        return min(self.minima, key=lambda minimum: math.dist(minimum, point))

    def largest_stable_lr(self) -> float:
        """The learning rate below which plain gradient descent converges once it is near a minimum.

        A step multiplies the error along a direction of curvature c by 1 - lr c, so lr must stay below 2 / c,
        and the largest curvature at any of the minima decides.
        """
        curvatures = [
            torch.linalg.eigvalsh(torch.autograd.functional.hessian(self.value, minimum)).max()
            for minimum in torch.tensor(self.minima, dtype=torch.float64)
        ]
        return 2 / float(max(curvatures))


def parabola(x: Tensor) -> Tensor:
    """The tutorial's: slope 6x + 6."""
    return 3 * x**2 + 6 * x - 9


def ravine(x: Tensor, y: Tensor) -> Tensor:
    """Its curvature is 18 along y and 1 along x: a learning rate that is fast along x oscillates along y."""
    return x**2 / 2 + 9 * y**2


def rosenbrock(x: Tensor, y: Tensor) -> Tensor:
    """A curved valley, easy to find and slow to follow (H. H. Rosenbrock, The Computer Journal 3, 1960)."""
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau(x: Tensor, y: Tensor) -> Tensor:
    """Four minima: the trajectory decides which is found (D. M. Himmelblau, Applied Nonlinear Programming, 1972)."""
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


HIMMELBLAU_MINIMA = (
    (3.0, 2.0),
    (-2.805118086952745, 3.131312518250573),
    (-3.779310253377747, -3.283185991286170),
    (3.584428340330492, -1.848126526964404),
)
FUNCTIONS = {
    function.name: function
    for function in (
        Function("parabola", "3x^2 + 6x - 9", parabola, ((-1.0,),), (10.0,), 20, ((-12.5, 10.5),), lowest=-12.0),
        Function("ravine", "x^2/2 + 9y^2", ravine, ((0.0, 0.0),), (-9.0, 2.0), 40, ((-10.0, 3.0), (-3.0, 3.0))),
        Function(
            "rosenbrock", "(1 - x)^2 + 100(y - x^2)^2", rosenbrock, ((1.0, 1.0),), (-1.2, 1.0), 300,
            ((-1.8, 1.6), (-0.6, 2.2)),
        ),
        Function(
            "himmelblau", "(x^2 + y - 11)^2 + (x + y^2 - 7)^2", himmelblau, HIMMELBLAU_MINIMA, (-0.5, -0.5), 60,
            ((-5.5, 5.5), (-5.0, 5.0)),
        ),
    )
}  # fmt: skip


# Trajectories ---------------------------------------------------------------------------------------------


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
    def distances(self) -> list[float]:
        """From each point to the minimum that is nearest to the last point."""
        nearest = self.function.nearest_minimum(self.points[-1])
        return [math.dist(point, nearest) for point in self.points]

    @cached_property
    def remaining(self) -> list[float]:
        """The distances as fractions of the start's; infinite if that is 0."""
        start = self.distances[0]
        return [one / start if start else math.inf if one else 0.0 for one in self.distances]

    @cached_property
    def diverged_after(self) -> int | None:
        """The last step whose value was no higher than the start's, plus one, if the end is far above it."""
        # One that starts at a minimum may end a little above it, so the gap of the usual start counts as well.
        usual = self.function.at(self.function.start) - self.function.lowest
        if len(self.lrs) == self.steps and self.gap[-1] <= DIVERGED * max(self.gap[0], 0.01 * usual):
            return None
        return max(step for step, gap in enumerate(self.gap) if gap <= self.gap[0]) + 1

    @cached_property
    def converged_after(self) -> int | None:
        """The step from which on at most 1 % of the distance remains, to the end."""
        if self.diverged_after is not None or self.remaining[-1] > CONVERGED:
            return None
        return max((step + 1 for step, left in enumerate(self.remaining) if left > CONVERGED), default=0)

    @property
    def ending(self) -> str:
        """How it ended, for the table and the plot."""
        if self.diverged_after is not None:
            return f"diverged after step {self.diverged_after}"
        if self.converged_after is not None:
            return f"converged after step {self.converged_after}"
        if math.isinf(self.remaining[-1]):
            return "left the minimum"
        return f"{100 * self.remaining[-1]:.2g} % of the distance remains"


def descend(config: Config, function: Function, start: Point, steps: int, label: str) -> Trajectory:
    """The trajectory under the optimizer, schedule, parameter groups and clipping of ``config``, in float64 on the CPU.

    Raises UserError where the optimizer rejects a value.
    """
    weight = nn.Parameter(torch.tensor([start], dtype=torch.float64))  # 1 x 1 or 1 x 2
    optimizer = make_optimizer(config, nn.ParameterList([weight]))
    limit, by_value = config.trainer.gradient_clip_val, config.trainer.gradient_clip_algorithm == "value"

    def closure() -> float:
        optimizer.zero_grad()
        loss = function.value(weight).sum()
        loss.backward()
        if limit is not None:
            (nn.utils.clip_grad_value_ if by_value else nn.utils.clip_grad_norm_)(weight, limit)
        return loss.item()

    scheduler = make_scheduler(config.scheduler, optimizer, steps)["scheduler"]
    found = Trajectory(function, label, steps, [start], [function.at(start)], [])
    for _ in range(steps):
        try:
            optimizer.step(closure)  # LBFGS calls it several times
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UserError(f"optimizer={config.optimizer.name}: {str(error).splitlines()[0]}") from error
        point = tuple(weight[0].tolist())
        value = function.at(point)
        if not math.isfinite(value):
            break
        found.points.append(point)
        found.values.append(value)
        found.lrs.append(optimizer.param_groups[0]["lr"])
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(value)
        else:
            scheduler.step()
    return found
