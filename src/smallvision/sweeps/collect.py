"""What there is of a sweep, out of its study and its run directories, and the reports that are made of it."""

import math
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir, is_locked, write_text
from smallvision.reports.pages import run_page, sweep_page
from smallvision.reports.run_view import RunView, read_rows
from smallvision.reports.sweep_view import SweepView, TrialView
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import override_value
from smallvision.sweeps.storage import JOURNAL
from smallvision.sweeps.study import Owner, Study
from smallvision.sweeps.terminal import print_summary

STATES = {
    TrialState.COMPLETE: "done",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
}


def report(directory: Path, storage: str | None = None) -> None:
    """``task=report`` of a sweep: its page and table anew, and the table printed, as CSV where no terminal shows it.

    ``storage``: the address of its trials, if they are not in the directory.
    """
    view = read_sweep(directory, storage)
    write_report(view)
    if sys.stdout.isatty():
        print_summary(Console(), view)
    else:
        sys.stdout.write(view.as_csv())


def write_report(view: SweepView) -> None:
    """leaderboard.csv and sweep.html in the sweep's directory, and the pages of the best trial's runs."""
    for run in map(RunDir, view.best.runs.values() if view.best and "report=false" not in view.fixed else ()):
        with suppress(UserError, OSError):  # of a damaged or full directory
            if run.results_json.is_file() and not run.report_html.exists():
                write_text(run.report_html, run_page(RunView.read(run.path)))
    write_text(view.directory / "leaderboard.csv", view.as_csv())
    write_text(view.directory / "sweep.html", sweep_page(view))


def read_sweep(directory: Path, storage: str | None = None) -> SweepView:
    """The sweep in that directory; ``storage``: the address of its trials, if they are not there.

    Raises UserError, naming the file, where there is no sweep.
    """
    journal = directory / JOURNAL
    if storage is None and not journal.is_file():
        raise UserError(f"{journal}: no such file; a sweep that keeps its trials elsewhere needs storage=ADDRESS")
    plan = Plan.read(directory, storage)
    try:
        return read_runs(Study(plan))
    except UserError:
        raise
    except KeyError:
        raise UserError(f"{storage or journal}: has no sweep {plan.name}") from None
    except Exception as error:  # whatever Optuna raises for a file that is no journal
        raise UserError(f"{storage or journal}: not the journal of a sweep ({type(error).__name__}: {error})") from None


def read_study(study: Study) -> SweepView:
    """The sweep as its study stands, without opening a run directory: quick enough to be read again and again."""
    plan, trials = study.plan, study.trials
    return SweepView(
        name=plan.name,
        directory=plan.directory,
        method=plan.method,
        metric=plan.metric,
        maximize=plan.maximize,
        seeds=plan.seeds,
        space={dimension.key: dimension.expression for dimension in plan.dimensions},
        fixed=plan.fixed,
        planned=study.count,
        epochs=plan.epochs,
        trials=[_trial_view(study, number, trials) for number in sorted(trials)],
        pruner=plan.pruner,
        stand_in_for=study.stand_in_for,
    )


def read_runs(study: Study, at_work: bool | None = None) -> SweepView:
    """The sweep with what its run directories hold: learning curves, test metrics, which runs were interrupted.

    ``at_work``: whether a process is carrying out the sweep; None: as its lock shows.
    """
    view = read_study(study)
    if at_work is None:
        at_work = is_locked(view.directory)
    trials, elsewhere = [], study.at_work_elsewhere()
    for trial in view.trials:
        runs = {seed: run for seed, run in trial.runs.items() if run.is_dir()}
        locked = at_work or trial.number in elsewhere or any(is_locked(run) for run in runs.values())
        running = trial.state == "running" and locked
        state = "interrupted" if trial.state == "running" and not running else trial.state
        curves = trial.curves | {seed: found for seed, run in runs.items() if (found := read_curve(run, view.metric))}
        trials.append(replace(trial, state=state, runs=runs, curves=curves))
    view = replace(view, trials=trials)
    return replace(view, test=_test_accuracies(study, view))


def _trial_view(study: Study, number: int, trials: dict[int, FrozenTrial]) -> TrialView:
    plan, trial = study.plan, trials[number]
    sampled = trial.params or trial.system_attrs.get("fixed_params", {})  # of one that waits
    same_as = trial.user_attrs.get("same_as")
    carried_out = number if same_as is None else same_as
    here = study.is_here(trials[carried_out])
    seconds, owner = _by_seed(trial, "seconds"), Owner.of(trial)
    return TrialView(
        number=number,
        state=STATES[trial.state],
        params={
            dimension.key: override_value(sampled[dimension.key])
            for dimension in plan.dimensions
            if dimension.key in sampled
        },
        values=_by_seed(trial, "value"),
        curves={seed: _reported_curve(study, trial, seed) for seed in plan.seeds},
        runs={seed: plan.run_dir(carried_out, seed) for seed in plan.seeds} if here else {},
        reason=trial.user_attrs.get("reason"),
        refused=bool(trial.user_attrs.get("refused")),
        same_as=same_as,
        cut_short=trials[carried_out].user_attrs.get("cut_short"),
        seconds=sum(seconds.values()) if seconds else None,
        began=trial.datetime_start,
        ended=trial.datetime_complete,
        fraction=plan.metric.endswith("/acc"),
        host=owner.host if owner is not None and study.database is not None else None,
    )


def _by_seed(trial: FrozenTrial, name: str) -> dict[int, float]:
    found = {int(key.partition("/")[2]): value for key, value in trial.user_attrs.items() if key.startswith(f"{name}/")}
    return dict(sorted(found.items()))


def _reported_curve(study: Study, trial: FrozenTrial, seed: int) -> dict[int, float]:
    """The metric by epoch, as a run reported it to the pruner."""
    offset = study.plan.seeds.index(seed) * study.plan.epochs
    return {
        step - offset: value
        for step, value in sorted(trial.intermediate_values.items())
        if offset < step <= offset + study.plan.epochs
    }


def read_curve(run: Path, metric: str) -> dict[int, float]:
    """The metric by epoch, of a run's metrics.csv; empty where there is none, perhaps on another machine."""
    rows = [(row["epoch"] or math.nan, row.get(metric)) for row in read_rows(run)]
    return {int(epoch): math.nan if value is None else value for epoch, value in rows if epoch.is_integer()}


def _test_accuracies(study: Study, view: SweepView) -> dict[int, float]:
    """The best trial's test/acc by seed, if that trial was tested; without a search, that of every run."""
    if view.best is None:
        return {}
    if study.plan.searches:
        tested, accuracies = study.test_metrics or (None, {})
        return accuracies if tested == view.best.number else {}
    found = {seed: Results.read(RunDir(run).results_json).metrics["test/acc"] for seed, run in view.best.runs.items()}
    return {seed: accuracy for seed, accuracy in found.items() if accuracy is not None}
