"""Functions to walk down: one curve and three surfaces, each with its minima and a place to start from."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Place = tuple[float, ...]


@dataclass(frozen=True)
class Function:
    """``value`` maps points, ... x 1 or ... x 2, to their values, ....

    ``formula``: as it is read, for the screen and, as mathematics, for the picture. ``lowest``: the value
    at each of the ``minima``. ``start`` and ``steps``: of a walk that is not told others. ``view``: low and
    high end of each axis of the picture, at the least.
    """

    name: str
    formula: str
    value: Callable[[Tensor], Tensor]
    minima: tuple[Place, ...]
    lowest: float
    start: Place
    steps: int
    view: tuple[tuple[float, float], ...]

    def at(self, place: Place) -> float:
        return float(self.value(torch.tensor(place, dtype=torch.float64)))

    def height(self, value: float) -> float:
        """Of a value above the minimum."""
        return value - self.lowest

    def distance(self, place: Place) -> float:
        """From there to the nearest minimum."""
        return min(between(place, minimum) for minimum in self.minima)

    def stable_rate(self) -> float:
        """The learning rate below which plain gradient descent, once near a minimum, settles there.

        A step multiplies what is left along a direction of curvature c by 1 - rate c, so the rate must stay
        below 2 / c, and the steepest direction of all minima decides.
        """
        curvatures = [
            torch.linalg.eigvalsh(torch.autograd.functional.hessian(self.value, minimum)).max()
            for minimum in torch.tensor(self.minima, dtype=torch.float64)
        ]
        return 2 / float(max(curvatures))


def between(one: Place, other: Place) -> float:
    """The distance of two points."""
    return float(torch.dist(torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)))


def parabola(point: Tensor) -> Tensor:
    """The tutorial's: slope 6x + 6, lowest at -1."""
    x = point[..., 0]
    return 3 * x**2 + 6 * x - 9


def ravine(point: Tensor) -> Tensor:
    """Eighteen times as steep across as along: what is fast enough along it shakes across it."""
    x, y = point.unbind(-1)
    return x**2 / 2 + 9 * y**2


def rosenbrock(point: Tensor) -> Tensor:
    """A bent valley, easy to find and slow to follow.

    Source: H. H. Rosenbrock, An automatic method for finding the greatest or least value of a function,
    The Computer Journal 3, 1960; with its start.
    """
    x, y = point.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau(point: Tensor) -> Tensor:
    """Four minima, all of value 0: the way taken decides which is found.

    Source: D. M. Himmelblau, Applied Nonlinear Programming, 1972.
    """
    x, y = point.unbind(-1)
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


FUNCTIONS = {
    function.name: function
    for function in (
        Function(
            "parabola",
            "3x^2 + 6x - 9",
            parabola,
            minima=((-1.0,),),
            lowest=-12.0,
            start=(10.0,),
            steps=20,
            view=((-12.5, 10.5),),
        ),
        Function(
            "ravine",
            "x^2/2 + 9y^2",
            ravine,
            minima=((0.0, 0.0),),
            lowest=0.0,
            start=(-9.0, 2.0),
            steps=40,
            view=((-10.0, 3.0), (-3.0, 3.0)),
        ),
        Function(
            "rosenbrock",
            "(1 - x)^2 + 100(y - x^2)^2",
            rosenbrock,
            minima=((1.0, 1.0),),
            lowest=0.0,
            start=(-1.2, 1.0),
            steps=300,
            view=((-1.8, 1.6), (-0.6, 2.2)),
        ),
        Function(
            "himmelblau",
            "(x^2 + y - 11)^2 + (x + y^2 - 7)^2",
            himmelblau,
            minima=(
                (3.0, 2.0),
                (-2.805118086952745, 3.131312518250573),
                (-3.779310253377747, -3.283185991286170),
                (3.584428340330492, -1.848126526964404),
            ),
            lowest=0.0,
            start=(-0.5, -0.5),
            steps=60,
            view=((-5.5, 5.5), (-5.0, 5.0)),
        ),
    )
}
