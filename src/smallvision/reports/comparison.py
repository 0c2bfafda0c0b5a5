"""Several runs compared: what differs, which is best, and is that more than chance?"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from smallvision.core.results import DataResults
from smallvision.reports.formatting import csv_text, setting
from smallvision.reports.run_view import ReportArrays, RunView, flatten
from smallvision.reports.statistics import Sample, holm, mcnemar, mean_curve, paired, welch

# Keys and sections that do not change what is learnt: places, output, and the seed.
IGNORED = (
    "seed", "task", "name", "data_dir", "resume", "report", "checkpoint", "logger", "device.threads", "storage", "runs",
    "test", "save_model", "log_every_n_batches",
)  # fmt: skip
FIRST = ("optimizer.lr", "trainer.max_epochs")  # of the keys of sections that differ
SIGNIFICANT = 0.05  # a difference with a smaller p-value is no chance
MAX_TESTED = 20  # configurations that are tested against the best one
COLUMNS = (
    "run", "status", "data", "stand_in_for", "model", "optimizer", "seed", "epochs", "val/acc", "test/acc", "images/s",
    "cut_short",
)  # fmt: skip


@dataclass(frozen=True)
class Configuration:
    """Runs that differ in nothing but their seed, by which they are sorted. ``settings``: their config by full keys."""

    settings: dict[str, object]
    runs: list[RunView]

    @property
    def seeds(self) -> int:
        """A run again says nothing about other seeds, so there may be fewer than runs."""
        return len({run.results.seed for run in self.runs})

    def sample(self, metric: str) -> Sample:
        """One value per seed: that of the first run that has it."""
        found: dict[int, float] = {}
        for run in self.runs:
            value = run.results.metrics[metric]
            if value is not None and math.isfinite(value):
                found.setdefault(run.results.seed, value)
        return Sample(list(found.values()), fraction=metric.endswith("/acc"))

    def setting(self, key: str) -> str:
        return setting(self.settings.get(key), none="-")

    @property
    def seconds(self) -> float | None:
        """Of training, the mean over runs."""
        return Sample([run.results.seconds.fit for run in self.runs if run.results.seconds.fit is not None]).mean

    @property
    def failures(self) -> list[str]:
        """How runs ended that did not complete, or were cut short."""
        return sorted({run.results.state for run in self.runs} - {"completed"})

    @cached_property
    def curve(self) -> dict[int, float]:
        """val/acc by epoch, the mean over the seeds that came so far."""
        return mean_curve({run.results.seed: run.column("val/acc") for run in self.runs}.values())


@dataclass(frozen=True)
class SignificanceTest:
    """The best configuration against ``other``, which has that ``rank``, on the same test images.

    ``difference``: of their test/acc, best minus other; ``only_best``, ``only_other``: images that only the one
    classifies correctly (means over seeds); ``p_images``, ``p_seeds``: p-values over images and over seeds, the latter
    None for fewer than two seeds of either; ``p``: the larger one, corrected for the number of tests.
    """

    rank: int
    other: Configuration
    difference: float
    only_best: float
    only_other: float
    p_images: float
    p_seeds: float | None
    p: float = 1.0

    @property
    def significant(self) -> bool:
        return self.p < SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """Configurations on the same images, the best by validation first.

    ``title``: tells it from the others; ``differing``: the keys in which the configurations differ, of partial runs
    also from whole ones.
    """

    title: str
    data: DataResults
    differing: list[str]
    configurations: list[Configuration]
    tests: list[SignificanceTest]

    @property
    def runs(self) -> list[RunView]:
        return [run for configuration in self.configurations for run in configuration.runs]

    @property
    def repeated(self) -> bool:
        """Whether there is a configuration of several seeds."""
        return any(one.seeds > 1 for one in self.configurations)

    @property
    def partial(self) -> list[str]:
        """Why these are partial runs: how they ended, and by which keys they were cut short; empty for whole ones."""
        found = {run.results.cut_short or run.results.status for run in self.runs}
        return sorted(found - {"completed"})


def compare(views: Iterable[RunView]) -> list[Comparison]:
    """One comparison for each set of images, the one with most runs first; partial runs are apart, last: those that
    were cut short or did not come to their end.
    """
    groups: dict[tuple[bool, str, str], list[RunView]] = {}
    for view in views:
        data = view.results.data
        groups.setdefault((view.results.state != "completed", data.name, data.fingerprint), []).append(view)
    ordered = sorted(groups.items(), key=lambda group: (group[0][0], -len(group[1])))
    settings = {group: [settings_of(run) for run in runs] for group, runs in ordered}
    comparisons = []
    for group, runs in ordered:
        (partial, name, fingerprint), data = group, runs[0].results.data
        title = f"{name}, a STAND-IN for {data.stand_in_for}" if data.stand_in_for else name
        alike = {other[2]: found[0] for other, found in settings.items() if other[1] == name}
        if len(alike) > 1:
            keys = [key for key in differing_keys(list(alike.values())) if key.startswith("data.")]
            values = [f"{key}={setting(settings[group][0].get(key))}" for key in keys]
            title += f", {' '.join(values) or fingerprint[:6]}"
        title += ", partial runs" if partial else ""
        configurations = group_seeds(runs)
        differing = differing_keys(settings[group] + (settings.get((False, *group[1:]), []) if partial else []))
        tests = compare_with_best(configurations)
        comparisons.append(Comparison(title, data, differing, configurations, tests))
    return comparisons


def group_seeds(runs: list[RunView]) -> list[Configuration]:
    """The configurations of those runs, the best by validation first."""
    settings = [settings_of(run) for run in runs]
    keys = differing_keys(settings)
    found: dict[str, Configuration] = {}
    pairs = sorted(zip(runs, settings, strict=True), key=lambda pair: (pair[0].results.seed, str(pair[0].directory)))
    for run, its in pairs:
        name = json.dumps([_encoded(its.get(key)) for key in keys]) if its else str(run.directory)
        found.setdefault(name, Configuration(its, [])).runs.append(run)
    return sorted(found.values(), key=lambda one: _rank(one.sample("val/acc").mean, one.runs[0]))


def settings_of(view: RunView) -> dict[str, object]:
    """The config by full keys, without the ignored ones; a section's ``name`` stands under the section's own key."""
    found = {key.removesuffix(".name"): value for key, value in flatten(view.config).items()}
    return {
        key: value
        for key, value in found.items()
        if not key.endswith("_target_") and not f"{key}.".startswith(tuple(f"{one}." for one in IGNORED))
    }


def differing_keys(configs: list[dict[str, object]]) -> list[str]:
    """Keys with several values, those of sections last. Where a config lacks a key, it does not differ by that."""
    found = []
    for key in sorted({key for one in configs for key in one}, key=lambda key: ("." in key, key not in FIRST, key)):
        section = key.partition(".")[0]
        values: dict[str, set[str]] = {}
        for one in configs:
            if key in one:
                choice = "" if section == key else _encoded(one.get(section))
                values.setdefault(choice, set()).add(_encoded(one[key]))
        if any(len(several) > 1 for several in values.values()):
            found.append(key)
    return found


def _encoded(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _rank(value: float | None, run: RunView) -> tuple[bool, bool, float, str]:
    """The largest value first, partial runs below whole ones, runs without a value last."""
    loss = math.inf if value is None or math.isnan(value) else -value
    return loss == math.inf, run.results.state != "completed", loss, str(run.directory)


def compare_with_best(configurations: list[Configuration]) -> list[SignificanceTest]:
    """The first configuration against the others that were tested on the same images."""
    labels, best = correct(configurations[0].runs) if len(configurations) > 1 else (None, None)
    if best is None:
        return []
    first = best.mean(0)
    tests = []
    for rank, other in enumerate(configurations[1 : MAX_TESTED + 1], start=2):
        _, others = correct(other.runs, labels)
        if others is None:
            continue
        second = others.mean(0)
        only_best, only_other = float((first * (1 - second)).sum()), float((second * (1 - first)).sum())
        single = len(best) == len(others) == 1
        p_images = mcnemar(round(only_best), round(only_other)) if single else paired(first - second)
        p_seeds = welch(best.mean(1).tolist(), others.mean(1).tolist())
        difference = float(first.mean() - second.mean())
        tests.append(SignificanceTest(rank, other, difference, only_best, only_other, p_images, p_seeds))
    corrected = holm([max(one.p_images, one.p_seeds or 0.0) for one in tests])
    return [replace(one, p=p) for one, p in zip(tests, corrected, strict=True)]


def correct(
    runs: list[RunView], labels: npt.NDArray[np.int32] | None = None
) -> tuple[npt.NDArray[np.int32] | None, npt.NDArray[np.float64] | None]:
    """The labels of the images that the first of those runs was tested on (or ``labels``), and seeds x images: 1.0
    where its run classified an image correctly. Runs that were not tested on these images are left out.
    """
    found: dict[int, npt.NDArray[np.float64]] = {}
    for run in runs:
        arrays = ReportArrays.read(run.directory)
        if run.results.seed in found or not len(arrays.test_labels):
            continue
        labels = arrays.test_labels if labels is None else labels
        if np.array_equal(arrays.test_labels, labels):
            found[run.results.seed] = (arrays.test_probabilities.argmax(1) == labels).astype(np.float64)
    return labels, np.stack(list(found.values())) if found else None


def as_csv(comparisons: list[Comparison]) -> str:
    """A row per run, the best by validation first, with a column for each key in which the runs' configs differ."""
    views = [run for one in comparisons for run in one.runs]
    views.sort(key=lambda view: _rank(view.results.metrics["val/acc"], view))
    keys = sorted({key for one in comparisons for key in one.differing} - set(COLUMNS))
    rows: list[list[object]] = [[*COLUMNS, *keys]]
    for view in views:
        results, settings = view.results, settings_of(view)
        status = results.status + ("*" if results.data.stand_in_for else "")
        rows.append([
            view.directory, status, results.data.name, results.data.stand_in_for, results.model.name,
            results.optimizer, results.seed, results.epochs, results.metrics["val/acc"], results.metrics["test/acc"],
            results.images_per_second, results.cut_short, *(settings.get(key) for key in keys),
        ])  # fmt: skip
    return csv_text(rows)
