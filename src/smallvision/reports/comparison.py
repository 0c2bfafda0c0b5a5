"""Several runs held against each other: what differs, which is better, and is that more than noise?"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from smallvision.reports.run_view import RunView, predictions
from smallvision.reports.statistics import holm, mcnemar, paired, t_interval, welch

# Keys that do not make another configuration: places, what is drawn or told, and the seed.
APART = (
    "seed",
    "task",
    "data_dir",
    "resume",
    "report",
    "checkpoint",
    "logger",
    "device.threads",
    "storage",
    "runs",
)
NOISE = 0.05  # a difference that chance makes oftener is no difference
MOST_TESTED = 20  # configurations that are held against the best one


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in nothing but their seed. ``values``: its config, flat, by full key."""

    values: dict[str, Any]
    runs: list[RunView]

    def figures(self, name: str) -> list[float]:
        """Of the runs that have it, by seed."""
        found = [run.metrics[name] for run in self.runs]
        return [value for value in found if value is not None and math.isfinite(value)]

    def mean(self, name: str) -> float | None:
        figures = self.figures(name)
        return fmean(figures) if figures else None

    def deviation(self, name: str) -> float | None:
        figures = self.figures(name)
        return stdev(figures) if len(figures) > 1 else None

    def interval(self, name: str) -> tuple[float, float] | None:
        return t_interval(self.figures(name))

    @cached_property
    def curve(self) -> dict[int, float]:
        """The mean of val/acc over the runs that came to each epoch."""
        found: dict[int, list[float]] = {}
        for run in self.runs:
            for row in run.rows:
                epoch, value = row.get("epoch"), row.get("val/acc")
                if epoch and value is not None and math.isfinite(value):
                    found.setdefault(int(epoch), []).append(value)
        return {epoch: fmean(values) for epoch, values in sorted(found.items())}


@dataclass(frozen=True)
class Against:
    """The best configuration held against ``other`` on the same test images.

    ``gap``: of their test/acc, best minus other; ``only_best``, ``only_other``: images that only the one gets
    right (means over seeds); ``by_images``, ``by_seeds``: how likely so large a gap is by chance, None where
    it cannot be said; ``chance``: the larger of the two, raised for that many others were looked at.
    """

    other: Configuration
    gap: float
    only_best: float
    only_other: float
    by_images: float
    by_seeds: float | None
    chance: float = 1.0

    @property
    def is_noise(self) -> bool:
        return self.chance >= NOISE


@dataclass(frozen=True)
class Comparison:
    """Configurations on the same images, the best by validation first."""

    data: dict[str, Any]
    configurations: list[Configuration]
    against: list[Against] = field(default_factory=list)

    @cached_property
    def differing(self) -> list[str]:
        """The keys in which they differ; of a section that differs by choice (adam or sgd), only those that
        differ within a choice as well.
        """
        return _differing([one.values for one in self.configurations])

    def shown(self, one: Configuration, key: str) -> str:
        value = one.values.get(key)
        if value is None or isinstance(value, bool):
            return "-" if value is None else str(value).lower()
        return f"{value:g}" if isinstance(value, float) else str(value)


def compare(views: Iterable[RunView]) -> list[Comparison]:
    """One comparison for each set of images, the one with most runs first."""
    on: dict[tuple[str, str], list[RunView]] = {}
    for view in views:
        on.setdefault((view.data["name"], view.data["fingerprint"]), []).append(view)
    made = []
    for runs in sorted(on.values(), key=len, reverse=True):
        configurations = sorted(_configurations(runs), key=_rank)
        made.append(Comparison(runs[0].data, configurations, _held_against(configurations)))
    return made


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A config by full keys, without those that make no other configuration; a section's name stands under
    the section's own.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        whole = prefix[:-1] if key == "name" and prefix else f"{prefix}{key}"
        if whole in APART or key == "_target_":
            continue
        found |= flat(value, f"{whole}.") if isinstance(value, dict) and value else {whole: value}
    return found


def _configurations(runs: list[RunView]) -> list[Configuration]:
    values = [flat(run.config) for run in runs]
    matters = _differing(values)
    found: dict[str, Configuration] = {}
    for run, its in sorted(zip(runs, values, strict=True), key=lambda pair: (pair[0].seed, str(pair[0].directory))):
        name = json.dumps([_word(its.get(key)) for key in matters]) if its else str(run.directory)
        found.setdefault(name, Configuration(its, [])).runs.append(run)
    return list(found.values())


def _differing(configs: list[dict[str, Any]]) -> list[str]:
    """Keys with several values, those of sections last. A config that lacks a key, as a younger smallvision
    brought it, does not differ by that.
    """
    found = []
    for key in sorted({key for one in configs for key in one}, key=lambda key: ("." in key, key)):
        section = key.partition(".")[0]
        values: dict[str, set[str]] = {}
        for one in configs:
            if key in one:
                choice = "" if section == key else _word(one.get(section))
                values.setdefault(choice, set()).add(_word(one[key]))
        if any(len(several) > 1 for several in values.values()):
            found.append(key)
    return found


def _word(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _rank(one: Configuration) -> tuple[bool, float, str]:
    mean = one.mean("val/acc")
    return mean is None, -(mean or 0.0), str(one.runs[0].directory)


def _held_against(configurations: list[Configuration]) -> list[Against]:
    """Of the configurations after the first, those that were tested on the same images as it."""
    if len(configurations) < 2:
        return []
    best = configurations[0]
    right, labels = _right(best.runs, None)
    if right is None:
        return []
    found = []
    for other in configurations[1 : MOST_TESTED + 1]:
        theirs, _ = _right(other.runs, labels)
        if theirs is not None:
            found.append(_against(best, right, other, theirs))
    raised = holm([max(one.by_images, one.by_seeds or 0.0) for one in found])
    return [
        Against(one.other, one.gap, one.only_best, one.only_other, one.by_images, one.by_seeds, chance)
        for one, chance in zip(found, raised, strict=True)
    ]


def _against(best: Configuration, right: "Rights", other: Configuration, theirs: "Rights") -> Against:
    ours, others = right.mean(0), theirs.mean(0)
    single = len(right) == len(theirs) == 1
    only_best = float((ours * (1 - others)).sum())
    only_other = float((others * (1 - ours)).sum())
    by_images = mcnemar(round(only_best), round(only_other)) if single else paired(ours - others)
    by_seeds = welch([float(run.mean()) for run in right], [float(run.mean()) for run in theirs])
    return Against(other, float(ours.mean() - others.mean()), only_best, only_other, by_images, by_seeds)


Rights = np.ndarray[Any, Any]  # runs x images: 1.0 where the answer was right


def _right(runs: list[RunView], like: Any) -> tuple[Rights | None, Any]:
    """Which images each run got right, of the runs that were tested on the images with those labels."""
    found = []
    for run in runs:
        if (made := predictions(Path(run.directory))) is None:
            continue
        predicted, labels = made
        if like is None:
            like = labels
        if np.array_equal(labels, like):
            found.append((predicted == labels).astype(np.float64))
    return (np.stack(found) if found else None), like
