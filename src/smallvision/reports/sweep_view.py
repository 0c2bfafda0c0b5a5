"""A sweep as plain values, as CSV and as a table; its page and its live display show the same."""

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path

from rich.table import Table

from smallvision.core.run_dir import command
from smallvision.reports.formatting import csv_text, duration, metric, short_names, shorten, spread, text_table
from smallvision.reports.statistics import INTERVALS, Sample, mean_curve

STATES = ("done", "running", "interrupted", "pruned", "failed", "waiting")
MAX_COLUMNS = 3  # of searched keys in the terminal
MAX_REASON, MAX_DETAILS = 500, 6_000  # characters


@dataclass(frozen=True)
class TrialView:
    """One configuration.

    ``params``: what was searched, by override key, as typed (``{"optimizer.lr": "0.001"}``); ``values``: the metric of
    each seed that finished; ``curves``: of each seed, the metric by epoch (NaN where an epoch was not validated);
    ``runs``: the run directory of each seed that started, unless another machine has it; ``reason``: why it failed or
    was pruned, summarized in the first line; ``refused``: it failed as its input is wrong; ``same_as``: the earlier
    trial of the same params, whose values these are; ``cut_short``: the keys that left batches out; ``seconds``: of all
    its runs together; ``host``: the machine that carried it out, where several may; ``fraction``: whether the metric
    is an accuracy.
    """

    number: int
    state: str
    params: dict[str, str]
    values: dict[int, float] = field(default_factory=dict)
    curves: dict[int, dict[int, float]] = field(default_factory=dict)
    runs: dict[int, Path] = field(default_factory=dict)
    reason: str | None = None
    refused: bool = False
    same_as: int | None = None
    cut_short: str | None = None
    seconds: float | None = None
    began: datetime | None = None
    ended: datetime | None = None
    host: str | None = None
    fraction: bool = False

    @cached_property
    def sample(self) -> Sample:
        """The metric of the seeds that finished."""
        return Sample(list(self.values.values()), self.fraction)

    @property
    def value(self) -> float | None:
        """The mean over the seeds that finished."""
        return self.sample.mean

    @cached_property
    def mean_curve(self) -> dict[int, float]:
        """The metric by epoch, the mean over the seeds that validated it."""
        return mean_curve(self.curves.values())

    @property
    def epochs(self) -> int:
        """The last epoch of any seed."""
        return max((epoch for curve in self.curves.values() for epoch in curve), default=0)

    @property
    def short_reason(self) -> str:
        return (self.reason or "").strip().partition("\n")[0]

    @property
    def state_text(self) -> str:
        """The state for the terminal, with which trial it repeats."""
        if self.same_as is not None:
            return f"{self.state}, as trial {self.same_as}"
        return "cut short" if self.state == "done" and self.cut_short is not None else self.state


@dataclass
class Failure:
    """Failed trials of one ``reason``, a line. ``details``: the other lines of one of them; ``run``: its directory."""

    reason: str
    numbers: list[int] = field(default_factory=list)
    details: str = ""
    run: Path | None = None


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
        """Done trials with a finite metric, whole ones first, then the best, then the earliest."""
        done = [trial for trial in self.of("done") if math.isfinite(self.loss(trial))]
        return sorted(done, key=lambda trial: (trial.cut_short is not None, self.loss(trial), trial.number))

    @cached_property
    def unranked(self) -> list[TrialView]:
        """The others, state by state; those that have not finished by the best metric that they reached."""
        ranked = {trial.number for trial in self.ranking}
        return sorted((trial for trial in self.trials if trial.number not in ranked), key=self._order)

    def _order(self, trial: TrialView) -> tuple[int, float, int]:
        reached = self.best_epoch(trial)
        loss = math.inf if reached is None else -reached if self.maximize else reached
        group = STATES.index(trial.state) if trial.state in STATES else len(STATES)
        return group, loss if trial.state in ("running", "interrupted", "pruned") else 0.0, trial.number

    @property
    def best(self) -> TrialView | None:
        return next(iter(self.ranking), None)

    @property
    def ended_after(self) -> dict[int, float]:
        """Seconds from the first trial's start to the end of each, by number."""
        began = self.began
        ends = {trial.number: trial.ended for trial in self.trials if trial.ended is not None}
        return {number: (ended - began).total_seconds() for number, ended in ends.items()} if began else {}

    def loss(self, trial: TrialView) -> float:
        """The metric, negated where a larger one is better; infinite where there is none."""
        value = trial.value
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.maximize else value

    def best_epoch(self, trial: TrialView) -> float | None:
        """The best metric of any epoch of any seed, also of a trial that has not finished."""
        reached = [value for curve in trial.curves.values() for value in curve.values()]
        finite = [value for value in (*reached, *trial.values.values()) if math.isfinite(value)]
        return (max if self.maximize else min)(finite, default=None)

    @property
    def measured(self) -> list[TrialView]:
        """Done trials with a finite metric, each configuration once, by number."""
        values = [(trial, trial.value) for trial in self.of("done") if trial.same_as is None]
        return [trial for trial, value in values if value is not None and math.isfinite(value)]

    @property
    def rivals(self) -> int:
        """How many trials have an interval that overlaps with that of the best one."""
        intervals = [trial.sample.interval for trial in self.ranking if trial.same_as is None or trial is self.best]
        if not intervals or intervals[0] is None:
            return 0
        low, high = intervals[0]
        return sum(one[1] >= low if self.maximize else one[0] <= high for one in intervals[1:] if one is not None)

    @property
    def tested(self) -> Sample:
        return Sample(list(self.test.values()), fraction=True)

    @property
    def repeated(self) -> bool:
        """Whether a trial has several seeds."""
        return any(len(trial.values) > 1 for trial in self.trials)

    @cached_property
    def counts(self) -> dict[str, int]:
        """How many trials are in each state that occurs; those that are yet to be proposed are waiting."""
        counts = Counter(trial.state for trial in self.trials)
        counts["waiting"] += max(self.planned - len(self.trials), 0)
        return {state: counts[state] for state in (*STATES, *counts) if counts[state]}

    @property
    def ended(self) -> int:
        """How many trials have."""
        return sum(self.counts.get(state, 0) for state in ("done", "pruned", "failed"))

    @property
    def hosts(self) -> set[str]:
        """The machines that carried out trials, where several may."""
        return {trial.host for trial in self.trials if trial.host is not None}

    @property
    def is_over(self) -> bool:
        return 0 < self.ended == sum(self.counts.values())

    @property
    def began(self) -> datetime | None:
        return min((trial.began for trial in self.trials if trial.began is not None), default=None)

    @property
    def elapsed(self) -> float | None:
        """Seconds from the first trial's start to the last one's end."""
        return max(self.ended_after.values(), default=None) if self.is_over else None

    @property
    def seconds(self) -> float | None:
        """Of all runs together."""
        return sum(trial.seconds or 0.0 for trial in self.trials if trial.same_as is None) or None

    @property
    def with_curves(self) -> list[TrialView]:
        """The trials that validated an epoch, the best first."""
        trials = [trial for trial in self.trials if trial.same_as is None and trial.mean_curve]
        return sorted(trials, key=lambda trial: (self.loss(trial), trial.number))

    @property
    def failures(self) -> list[Failure]:
        """By reason, the most frequent first."""
        found: dict[str, Failure] = {}
        for trial in self.of("failed"):
            reason, _, rest = (trial.reason or "").strip().partition("\n")
            one = found.setdefault(reason[:MAX_REASON], Failure(reason[:MAX_REASON]))
            one.numbers.append(trial.number)
            one.details = one.details or rest.strip()[-MAX_DETAILS:]
            one.run = one.run or next(iter(trial.runs.values()), None)
        return sorted(found.values(), key=lambda one: -len(one.numbers))

    def command(self, trial: TrialView, anywhere: bool = False) -> str:
        """The line that runs that configuration again with all its seeds, here or ``anywhere``."""
        values = [f"{key}={value}" for key, value in trial.params.items()]
        flags = ["-m"] if len(self.seeds) > 1 else []
        return command(*flags, *self.fixed, *values, f"seed={','.join(map(str, self.seeds))}", anywhere=anywhere)

    def as_csv(self) -> str:
        """leaderboard.csv, for other programs: numbers with all their digits, run directories joined by ``;``."""
        rows: list[list[object]] = [
            ["rank", "trial", "state", self.metric, "std", "n", "low", "high", *self.space, "seconds",
             *(["host"] if self.hosts else []), "run", "reason"]
        ]  # fmt: skip
        for place, trial in enumerate([*self.ranking, *self.unranked], start=1):
            rank, sample = place if place <= len(self.ranking) else None, trial.sample
            runs = ";".join(str(run) for _, run in sorted(trial.runs.items()))
            rows.append([
                rank, trial.number, trial.state, sample.mean, sample.deviation, len(trial.values),
                *(sample.interval or (None, None)), *(trial.params.get(key) for key in self.space), trial.seconds,
                *([trial.host] if self.hosts else []), runs,
                trial.short_reason or (f"cut short by {trial.cut_short}" if trial.cut_short else ""),
            ])  # fmt: skip
        return csv_text(rows)

    def table(self, limit: int | None = None) -> Table:
        """The first ``limit`` rows for the terminal."""
        shown = [*self.ranking, *self.unranked][:limit]
        repeated = any(len(trial.values) > 1 for trial in shown)
        names, together = short_names(list(self.space)), len(self.space) > MAX_COLUMNS
        rows = []
        for place, trial in enumerate(shown, start=1):
            params = [shorten(trial.params.get(key) or "-") for key in self.space]
            if together:
                params = [" ".join(f"{names[key]}={shorten(value)}" for key, value in trial.params.items())]
            rows.append([
                str(place) if place <= len(self.ranking) else "", metric(trial.value),
                *([spread(trial.sample, "-"), str(len(trial.values))] if repeated else []),
                duration(trial.seconds), str(trial.number), *params, *([trial.host or "-"] if self.hosts else []),
                trial.state_text,
            ])  # fmt: skip
        notes = [INTERVALS] if repeated else []
        if len(self.trials) > len(shown):
            notes.append(f"{len(self.trials) - len(shown):,} more in leaderboard.csv")
        if self.stand_in_for is not None:
            notes.append(f"on a stand-in for {self.stand_in_for}, not on its images")
        return text_table(
            ["", self.metric, *(["95 %", "n"] if repeated else []), "time", "trial"],
            [*(["values"] if together else names.values()), *(["host"] if self.hosts else []), "state"],
            rows,
            "\n".join(notes),
            style="dim" if self.stand_in_for is None else "red",
        )
