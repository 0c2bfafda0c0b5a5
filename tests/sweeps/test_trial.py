"""The runs of a sweep and what is stored of them. Here they run in the test's process, one after another."""

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
from helpers.command import results
from helpers.sweep_plans import InProcess, make_plan
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from optuna.trial import TrialState

from smallvision.core.errors import Interrupted
from smallvision.core.system import STOP
from smallvision.sweeps.collect import read_runs
from smallvision.sweeps.executors import Event
from smallvision.sweeps.study import Study
from smallvision.sweeps.sweep import Sweep
from smallvision.sweeps.terminal import test_line as line_of_test
from smallvision.sweeps.trial import Reason


@pytest.fixture(scope="module", autouse=True)
def signal_handlers() -> Iterator[None]:
    """A run installs its own."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run_trials(study: Study) -> bool:
    executor = InProcess()
    executor.sweep = Sweep(study, executor)
    return executor.sweep.run_trials()


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Four trials: two that are completed, one that is pruned, and one that cannot be run."""
    plan = make_plan(tmp_path_factory.mktemp("pruned"), "optimizer.lr=0.01,0.009,1e-9,-1", pruner="median",
                     pruner_options={"n_startup_trials": 2})  # fmt: skip
    study = Study.create(plan)
    assert run_trials(study) is False
    return study


def test_a_pruned_run_ends_after_its_epoch_and_is_not_tested(pruned):
    run = results(pruned.plan.directory / "2")
    assert (run["status"], run["epochs"], run["metrics"]["test/acc"]) == ("pruned", 1, None)
    assert run["metrics"]["val/acc"] is not None
    trial = read_runs(pruned).trials[2]
    assert (trial.state, trial.reason) == ("pruned", "median pruner, after epoch 1")
    assert trial.curves == {0: {1: run["metrics"]["val/acc"]}}
    assert results(pruned.plan.directory / "0")["status"] == "completed"


class PruneAtTheEnd(Callback):
    """A pruner that decides after the last epoch, on a cluster, where no run waits for it."""

    def __init__(self, stop: Path) -> None:
        self.stop = stop

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            self.stop.write_text("pruned\n")


def test_a_run_that_is_pruned_after_its_last_epoch_is_complete(tmp_path):
    run = make_plan(tmp_path, "optimizer.lr=0.01,0.02", pruner="median").run(0, {"optimizer.lr": "0.01"}, 0)
    assert run.execute([PruneAtTheEnd(run.directory / "stop")]) is None
    assert (run.directory / "stop").exists()
    found = results(run.directory)
    assert (found["status"], found["epochs"]) == ("completed", 2)
    assert run.finished() is not None


def test_a_trial_that_cannot_be_run_fails_with_its_error_and_ends_no_other(pruned):
    assert [trial.state for trial in read_runs(pruned).trials] == ["done", "done", "pruned", "failed"]
    refused = read_runs(pruned).trials[3]
    assert (refused.reason, refused.refused) == ("optimizer.lr=-1: must be a number above 0", True)


def test_each_epoch_is_reported_to_the_study(pruned):
    for number in (0, 1):
        reported = pruned.trials[number].intermediate_values
        assert reported == read_runs(pruned).trials[number].curves[0]
        assert len(reported) == 2


def test_results_that_a_killed_sweep_did_not_store_are_read_and_not_run_again(pruned, tmp_path):
    for number in (0, 2):  # completed, pruned
        shutil.copytree(pruned.plan.directory / f"{number}", tmp_path / f"{number}")
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*/results.json")}
    study = Study.create(make_plan(tmp_path, "optimizer.lr=0.01,0.009,1e-9", pruner="median"))
    run_trials(study)
    view = read_runs(study)
    assert [trial.state for trial in view.trials] == ["done", "done", "pruned"]
    assert view.trials[0].value == read_runs(pruned).trials[0].value
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_seeds_alone_are_repetitions_that_are_tested_like_any_run(tmp_path):
    study = Study.create(make_plan(tmp_path, seeds=[0, 1]))
    run_trials(study)
    accuracies = [results(tmp_path / f"0-seed{seed}")["metrics"]["test/acc"] for seed in (0, 1)]
    view = read_runs(study)
    assert view.test == dict(enumerate(accuracies))
    assert line_of_test(accuracies).startswith(f"test/acc {fmean(accuracies):.4f} (sd ")
    assert line_of_test([*accuracies, 0.5]).startswith("test/acc 0.")
    assert " (95 % interval 0.0000 to " in line_of_test([*accuracies, 0.5])
    assert line_of_test(accuracies).endswith("n = 2 seeds")


def test_a_sweep_that_is_to_stop_begins_no_trial(tmp_path, monkeypatch):
    monkeypatch.setattr(STOP, "signal", "end of the sweep")
    study = Study.create(make_plan(tmp_path, seeds=[0]))
    assert run_trials(study) is True
    assert not (tmp_path / "0").exists()


def test_a_run_records_its_own_command_line(pruned):
    environment = json.loads((pruned.plan.directory / "0/environment.json").read_text())
    assert "optimizer.lr=0.01" in environment["command"]


def test_a_trial_takes_the_seconds_of_all_pieces_of_its_run(tmp_path):
    study = Study.create(make_plan(tmp_path, seeds=[0]))
    (tmp_path / "0").mkdir()
    (tmp_path / "0/stop").touch()
    with pytest.raises(Interrupted):
        study.next_run([]).execute()
    before = results(tmp_path / "0")["seconds"]["total"]
    run_trials(study)
    assert before < read_runs(study).trials[0].seconds == results(tmp_path / "0")["seconds"]["total"]


def test_a_run_whose_processes_do_not_bring_it_on_fails_with_the_cause(tmp_path):
    study = Study.create(make_plan(tmp_path, "optimizer.lr=0.3,0.1"))
    sweep = Sweep(study, InProcess())
    sweep.submit_runs()
    (run,) = sweep.running.values()
    run.directory.mkdir()
    (run.directory / "config.yaml").touch()  # it had begun
    for _ in range(3):
        assert study.trials[0].state == TrialState.RUNNING
        sweep.running[run.directory] = run
        sweep.handle(Event(run, "died", Reason("a worker was killed by SIGKILL\nlast line")), stopping=False)
    assert (study.trials[0].state, study.trials[0].user_attrs["reason"]) == (
        TrialState.FAIL, "a worker was killed by SIGKILL\nlast line\nin 3 processes in a row")  # fmt: skip


def test_a_sweep_whose_processes_cannot_start_ends_at_once(tmp_path):
    sweep = Sweep(Study.create(make_plan(tmp_path, "optimizer.lr=range(1,9)")), InProcess())
    for left in (2, 1):
        sweep.submit_runs()
        (run,) = sweep.running.values()
        sweep.handle(Event(run, "died", Reason("a worker ended with exit code 1\nImportError")), stopping=False)
        assert sweep.startup_ends == 3 - left
    sweep.submit_runs()
    with pytest.raises(RuntimeError, match=r"3 processes in a row ended before any trial began: .*\nImportError"):
        sweep.handle(
            Event(*sweep.running.values(), "died", Reason("a worker ended with exit code 1\nImportError")), False
        )
