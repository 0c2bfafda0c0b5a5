"""Functions to minimise: a curve and three surfaces, each with its minima and a starting point."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Point = tuple[float, ...]


@dataclass(frozen=True)
class Function:
    """A function of one or two variables.

    ``value`` maps points, ... x 1 or ... x 2, to their values, ... . ``formula`` is plain text and TeX math at
    once. ``start`` and ``steps`` are the defaults of a trajectory, ``view`` is the range of each axis that a plot
    shows at least, and ``lowest`` is the value at each of the ``minima``.
    """

    name: str
    formula: str
    value: Callable[[Tensor], Tensor]
    minima: tuple[Point, ...]
    start: Point
    steps: int
    view: tuple[tuple[float, float], ...]
    lowest: float = 0.0

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


def parabola(point: Tensor) -> Tensor:
    """The tutorial's: slope 6x + 6, minimum at -1."""
    x = point[..., 0]
    return 3 * x**2 + 6 * x - 9


def ravine(point: Tensor) -> Tensor:
    """Its curvature is 18 along y and 1 along x: a learning rate that is fast along x oscillates along y."""
    x, y = point.unbind(-1)
    return x**2 / 2 + 9 * y**2


def rosenbrock(point: Tensor) -> Tensor:
    """A curved valley, easy to find and slow to follow.

    Source: H. H. Rosenbrock, An automatic method for finding the greatest or least value of a function,
    The Computer Journal 3, 1960; with its starting point.
    """
    x, y = point.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau(point: Tensor) -> Tensor:
    """Four minima, all of value 0: the trajectory decides which of them is found.

    Source: D. M. Himmelblau, Applied Nonlinear Programming, 1972.
    """
    x, y = point.unbind(-1)
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


HIMMELBLAU_MINIMA = (
    (3.0, 2.0),
    (-2.805118086952745, 3.131312518250573),
    (-3.779310253377747, -3.283185991286170),
    (3.584428340330492, -1.848126526964404),
)
_ALL = (
    Function(
        "parabola", "3x^2 + 6x - 9", parabola, minima=((-1.0,),), start=(10.0,), steps=20,
        view=((-12.5, 10.5),), lowest=-12.0,
    ),
    Function(
        "ravine", "x^2/2 + 9y^2", ravine, minima=((0.0, 0.0),), start=(-9.0, 2.0), steps=40,
        view=((-10.0, 3.0), (-3.0, 3.0)),
    ),
    Function(
        "rosenbrock", "(1 - x)^2 + 100(y - x^2)^2", rosenbrock, minima=((1.0, 1.0),), start=(-1.2, 1.0), steps=300,
        view=((-1.8, 1.6), (-0.6, 2.2)),
    ),
    Function(
        "himmelblau", "(x^2 + y - 11)^2 + (x + y^2 - 7)^2", himmelblau, minima=HIMMELBLAU_MINIMA, start=(-0.5, -0.5),
        steps=60, view=((-5.5, 5.5), (-5.0, 5.0)),
    ),
)  # fmt: skip
FUNCTIONS = {function.name: function for function in _ALL}
