"""A sweep as plain values, for tables, pages and the live display."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev

from smallvision.reports.statistics import t_interval

STATES = ("done", "running", "interrupted", "pruned", "failed", "waiting")


@dataclass(frozen=True)
class TrialView:
    """One configuration.

    ``params``: what was searched, by override key, as typed (``{"optimizer.lr": "0.001"}``); ``values``: the metric of
    each seed that finished; ``curves``: of each seed, the metric by epoch (NaN where an epoch was not validated);
    ``runs``: the run directory of each seed that started; ``reason``: why it failed or was pruned, summarized in the
    first line; ``same_as``: the earlier trial of the same params, whose values these are; ``seconds``: of all its runs
    together.
    """

    number: int
    state: str
    params: dict[str, str]
    values: dict[int, float] = field(default_factory=dict)
    curves: dict[int, dict[int, float]] = field(default_factory=dict)
    runs: dict[int, Path] = field(default_factory=dict)
    reason: str | None = None
    same_as: int | None = None
    seconds: float | None = None
    began: datetime | None = None
    ended: datetime | None = None

    @property
    def value(self) -> float | None:
        """The mean over the seeds that finished."""
        return fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for fewer than two, or where one is NaN or infinite."""
        return stdev(self.values.values()) if self.interval else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds; None as for the deviation."""
        return t_interval(self.values.values())

    @property
    def half_interval(self) -> float | None:
        return (self.interval[1] - self.interval[0]) / 2 if self.interval else None

    @cached_property
    def mean_curve(self) -> dict[int, float]:
        """The metric by epoch, the mean over the seeds that validated it."""
        found: dict[int, list[float]] = {}
        for curve in self.curves.values():
            for epoch, value in curve.items():
                if math.isfinite(value):
                    found.setdefault(epoch, []).append(value)
        return {epoch: fmean(found[epoch]) for epoch in sorted(found)}

    @property
    def epochs(self) -> int:
        """The last epoch of any seed."""
        return max((epoch for curve in self.curves.values() for epoch in curve), default=0)

    @property
    def short_reason(self) -> str:
        return (self.reason or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class SweepView:
    """A sweep and its trials.

    ``space``: the searched keys with their expressions; ``fixed``: the other overrides; ``planned``: how many trials it
    will have; ``trials``: those started or waiting, by number; ``epochs``: of an unpruned run; ``maximize``: whether a
    larger ``metric`` is better; ``test``: the test accuracy of the best trial by seed, once it was tested;
    ``stand_in_for``: the data set that was asked for, where another replaces it.
    """

    name: str
    directory: Path
    method: str
    metric: str
    maximize: bool
    seeds: list[int]
    space: dict[str, str]
    fixed: list[str]
    planned: int
    epochs: int
    trials: list[TrialView]
    pruner: str = "none"
    test: dict[int, float] = field(default_factory=dict)
    stand_in_for: str | None = None

    def of(self, *states: str) -> list[TrialView]:
        return [trial for trial in self.trials if trial.state in states]

    @cached_property
    def ranking(self) -> list[TrialView]:
        """Done trials with a finite metric, the best first, then the earliest."""
        done = [trial for trial in self.of("done") if math.isfinite(self.loss(trial))]
        return sorted(done, key=lambda trial: (self.loss(trial), trial.number))

    @property
    def best(self) -> TrialView | None:
        return next(iter(self.ranking), None)

    def loss(self, trial: TrialView) -> float:
        """The metric, negated where a larger one is better; infinite where there is none."""
        value = trial.value
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.maximize else value

    def best_epoch(self, trial: TrialView) -> float | None:
        """The best metric of any epoch of any seed, also of a trial that was cut short."""
        reached = [value for curve in trial.curves.values() for value in curve.values()]
        finite = [value for value in (*reached, *trial.values.values()) if math.isfinite(value)]
        return (max if self.maximize else min)(finite, default=None)

    def command(self, trial: TrialView) -> list[str]:
        """The arguments of train.py that run that configuration again, with all its seeds."""
        values = [f"{key}={value}" for key, value in trial.params.items()]
        flags = ["-m"] if len(self.seeds) > 1 else []
        return [*flags, *self.fixed, *values, f"seed={','.join(map(str, self.seeds))}"]
