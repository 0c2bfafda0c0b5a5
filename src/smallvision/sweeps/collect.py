"""From a sweep's store and run directories to its view."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from smallvision.core.errors import UserError
from smallvision.reports.sweep_view import SweepView, TrialView
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import written
from smallvision.sweeps.study import JOURNAL, latest_attempts, open_storage

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
}


def read(directory: Path, address: str | None = None) -> SweepView:
    """The view of a sweep's directory; ``address``: where its trials are kept, if not there.

    Raises UserError, naming the file, where it is not that of a sweep.
    """
    journal = directory / JOURNAL
    if address is None and not journal.is_file():
        raise UserError(f"{journal}: no such file; a sweep that keeps its trials elsewhere needs storage=ADDRESS")
    try:
        storage = open_storage(address, directory)
        for summary in optuna.get_all_study_summaries(storage):
            study = optuna.load_study(study_name=summary.study_name, storage=storage)
            plan = Plan.from_json(study.user_attrs["plan"])
            if address is None or plan.directory.resolve() == directory.resolve():
                return view(plan, study, directory, whole=True)
    except UserError:
        raise
    except Exception as error:  # whatever a file that is none makes Optuna stumble over
        raise UserError(f"{address or journal}: not the journal of a sweep ({type(error).__name__}: {error})") from None
    raise UserError(f"{address or journal}: has no sweep of {directory}")


def view(plan: Plan, study: optuna.Study, directory: Path, whole: bool = False) -> SweepView:
    """The sweep as it stands; ``whole``: also what is in the run directories."""
    attempts = latest_attempts(study)
    unlocked = _unlocked(plan, directory, attempts) if whole else set()
    trials = [
        _trial(plan, number, trial, directory, number in unlocked, whole) for number, trial in sorted(attempts.items())
    ]
    stand_in = (
        value for trial in attempts.values() for name, value in trial.user_attrs.items() if name.startswith("stand_in/")
    )
    sweep = SweepView(
        name=plan.name,
        directory=directory,
        method=plan.method,
        metric=plan.metric,
        maximize=plan.maximize,
        seeds=plan.seeds,
        space={one.key: one.expression for one in plan.dimensions},
        fixed=plan.fixed,
        planned=int(study.user_attrs.get("count", plan.count)),
        epochs=plan.epochs,
        trials=trials,
        pruner=plan.pruner,
        stand_in_for=next(stand_in, None),
    )
    return replace(sweep, test=_test(plan, study, sweep)) if whole else sweep


def _trial(plan: Plan, number: int, trial: FrozenTrial, directory: Path, unlocked: bool, whole: bool) -> TrialView:
    values = trial.params or trial.system_attrs.get("fixed_params", {})
    same_as = trial.user_attrs.get("same_as")
    runs = {seed: directory / plan.run_dir(number if same_as is None else same_as, seed).name for seed in plan.seeds}
    seconds = _numbered(trial, "seconds")
    state = STATES[trial.state]
    return TrialView(
        number=number,
        state="interrupted" if state == "running" and unlocked else state,
        params={one.key: written(values[one.key]) for one in plan.dimensions if one.key in values},
        values=_numbered(trial, "value"),
        curves={seed: _curve(plan, trial, seed, runs[seed] if whole else None) for seed in plan.seeds}
        if whole or state == "running"
        else {},
        runs={seed: run for seed, run in runs.items() if run.is_dir()} if whole else runs,
        reason=trial.user_attrs.get("reason"),
        same_as=same_as,
        seconds=sum(seconds.values()) if seconds else None,
        began=trial.datetime_start,
        ended=trial.datetime_complete,
    )


def _numbered(trial: FrozenTrial, name: str) -> dict[int, float]:
    found = {int(key.partition("/")[2]): value for key, value in trial.user_attrs.items() if key.startswith(f"{name}/")}
    return dict(sorted(found.items()))


def _curve(plan: Plan, trial: FrozenTrial, seed: int, run: Path | None) -> dict[int, float]:
    """The metric by epoch: of the run directory, else what was reported of it."""
    if run is not None:
        try:
            with (run / "metrics.csv").open(encoding="utf-8") as file:
                return {int(row["epoch"]): float(row[plan.metric] or "nan") for row in csv.DictReader(file)}
        except (OSError, ValueError, KeyError, TypeError):
            pass  # on another machine
    first = plan.seeds.index(seed) * plan.epochs
    return {
        step - first: value
        for step, value in sorted(trial.intermediate_values.items())
        if first < step <= first + plan.epochs
    }


def _unlocked(plan: Plan, directory: Path, attempts: dict[int, FrozenTrial]) -> set[int]:
    """Numbers of trials begun here that run in the store, but which no process has claimed."""
    here = directory / ".place"
    if not here.is_file():
        return set()
    ours = (None, here.read_text())
    running = [
        number
        for number, trial in attempts.items()
        if trial.state == TrialState.RUNNING and trial.user_attrs.get("place") in ours
    ]
    if not running:
        return set()
    found = set()
    with FileLock(directory / ".lock"):  # no claim is made meanwhile
        for number in running:
            if not any(_is_locked(directory, plan.run_dir(number, seed).name) for seed in plan.seeds):
                found.add(number)
    return found


def _is_locked(directory: Path, name: str) -> bool:
    file = directory / ".claims" / f"{name}.lock"
    if not file.is_file():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True


def _test(plan: Plan, study: optuna.Study, sweep: SweepView) -> dict[int, float]:
    """The test figures of the winner, if it was the one tested; where nothing was searched, of the runs."""
    if plan.searches:
        tested = study.user_attrs.get("test", {"trial": None, "figures": {}})
        is_winner = sweep.best is not None and sweep.best.number == tested["trial"]
        return {int(seed): value for seed, value in tested["figures"].items()} if is_winner else {}
    only = sweep.best
    if only is None:
        return {}
    figures = {seed: results(run)["metrics"]["test/acc"] for seed, run in only.runs.items()}
    return {seed: value for seed, value in figures.items() if value is not None}


def results(run: Path) -> dict[str, Any]:
    """A run's results.json."""
    figures: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return figures
