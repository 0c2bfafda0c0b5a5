"""What a sweep has come to, as plain values for tables, pages and the display."""

import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import fmean, stdev

STATES = ("done", "running", "interrupted", "waiting", "pruned", "failed")


@dataclass(frozen=True)
class TrialView:
    """One configuration.

    ``params``: what was searched, by override key, as typed (``{"optimizer.lr": "0.001"}``); ``values``: the
    figure of each seed that came to its end; ``curves``: of each seed, the metric by epoch (NaN where an
    epoch was not validated), with ``last_epoch`` the ones that were cut short; ``runs``: each begun seed's
    run directory; ``reason``: why it failed or was pruned, its first line the short of it; ``same_as``: the
    earlier trial of the same values, whose figures these are; ``seconds``: of all its runs together.
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
        """The mean over the seeds that came to their end."""
        return fmean(self.values.values()) if self.values else None

    @property
    def deviation(self) -> float | None:
        """The standard deviation over seeds (n - 1); None for fewer than two."""
        return stdev(self.values.values()) if len(self.values) > 1 else None


@dataclass(frozen=True)
class SweepView:
    """A whole sweep.

    ``space``: the searched keys with their expressions; ``fixed``: the other overrides; ``planned``: how
    many trials it will have; ``trials``: those begun or waiting, by number; ``epochs``: of a whole run;
    ``maximize``: whether a larger ``metric`` is better; ``test``: the winner's test figures by seed, once
    they are there; ``stand_in_for``: the data set that was named, where the images are another's.
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

    @property
    def ranking(self) -> list[TrialView]:
        """Done trials, the best first, then the earliest."""
        done = [trial for trial in self.of("done") if math.isfinite(self.loss(trial))]
        return sorted(done, key=lambda trial: (self.loss(trial), trial.number))

    @property
    def best(self) -> TrialView | None:
        return next(iter(self.ranking), None)

    def loss(self, trial: TrialView) -> float:
        """What a better trial has less of."""
        value = trial.value
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.maximize else value

    def command(self, trial: TrialView) -> list[str]:
        """The arguments of train.py that run that configuration again, with all its seeds."""
        values = [f"{key}={value}" for key, value in trial.params.items()]
        flags = ["-m"] if len(self.seeds) > 1 else []
        return [*flags, *self.fixed, *values, f"seed={','.join(map(str, self.seeds))}"]
