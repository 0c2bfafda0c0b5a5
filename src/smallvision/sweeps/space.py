"""The search space: from Hydra's override grammar to distributions that Optuna samples."""

import random
from dataclasses import dataclass
from itertools import product
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from smallvision.core.errors import UserError


@dataclass(frozen=True)
class Dimension:
    """One searched key. ``expression``: as typed; ``distribution``: of its values."""

    key: str
    expression: str
    distribution: BaseDistribution

    @classmethod
    def from_override(cls, override: Override, grid: bool) -> "Dimension":
        """The dimension of one sweep override. Raises UserError where a ``grid`` cannot enumerate it."""
        key, expression = override.get_key_element(), str(override.input_line).partition("=")[2]
        value = override.value()
        if isinstance(value, IntervalSweep):
            if grid:
                raise UserError(
                    f"{key}={expression}: a grid cannot enumerate an interval; use sweep=random or sweep=tpe,"
                    f" or list values: {key}=1,2,3"
                )
            return cls(key, expression, _interval(key, value))
        if isinstance(value, RangeSweep) and not grid and not value.shuffle:
            return cls(key, expression, _range(override, value))
        random.seed(expression)  # of shuffle(...): the same order whenever the sweep is resumed
        return cls(key, expression, CategoricalDistribution(list(override.sweep_string_iterator())))

    @property
    def choices(self) -> list[str]:
        """Every value in order, as typed in an override; for categories only."""
        assert isinstance(self.distribution, CategoricalDistribution)
        return [str(choice) for choice in self.distribution.choices]

    def example(self, turn: int) -> str:
        """One of its values, another one at the next turn."""
        if isinstance(self.distribution, CategoricalDistribution):
            return self.choices[turn % len(self.choices)]
        assert isinstance(self.distribution, IntDistribution | FloatDistribution)
        return override_value(self.distribution.high if turn % 2 else self.distribution.low)


def override_value(value: Any) -> str:
    """A sampled value as it is typed in an override."""
    return repr(value) if isinstance(value, float) else str(value)


def parse_space(space: dict[str, Any], parser: OverridesParser) -> list[Override]:
    """The sweep overrides of ``sweep.space`` in a YAML: expressions by key."""
    lines = [f"{key}={expression}" for key, expression in space.items()]
    parsed = parser.parse_overrides(lines)
    for line, override in zip(lines, parsed, strict=True):
        if not override.is_sweep_override():
            raise UserError(f"sweep.space: {line}: one value is no space; use choice(a, b) or interval(a, b)")
    return parsed


def grid(dimensions: list[Dimension]) -> list[dict[str, str]]:
    """Every combination; the last key changes fastest."""
    keys = [dimension.key for dimension in dimensions]
    choices = [dimension.choices for dimension in dimensions]
    return [dict(zip(keys, values, strict=True)) for values in product(*choices)]


def _interval(key: str, interval: IntervalSweep) -> BaseDistribution:
    low, high, log = interval.start, interval.end, "log" in interval.tags
    if low is None or high is None or not low < high:
        raise UserError(f"{key}: interval({low}, {high}): the first must be below the second")
    if log and low <= 0:
        raise UserError(f"{key}: interval({low}, {high}): on a log scale both must be above 0")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(float(low), float(high), log=log)


def _range(override: Override, span: RangeSweep) -> BaseDistribution:
    values = [float(value) for value in override.sweep_string_iterator()]
    if len(values) < 2:
        raise UserError(f"{override.input_line}: holds {len(values)} values; a space needs two")
    low, high = min(values), max(values)
    step = abs(span.step)
    if all(isinstance(bound, int) for bound in (span.start or 0, span.stop, step)):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(low, high, step=step)
