"""Which run of a study comes next, and what is stored of it; nothing is trained here."""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from statistics import fmean

import pytest
from filelock import FileLock
from helpers.sweep_plans import make_plan
from optuna.trial import TrialState
from sqlalchemy import text

from smallvision.core.errors import UserError
from smallvision.core.results import DataResults, ModelResults, Results
from smallvision.sweeps.collect import read_runs, read_study, read_sweep
from smallvision.sweeps.plan import PLAN_FILE, Plan
from smallvision.sweeps.space import grid
from smallvision.sweeps.storage import JOURNAL, open_storage
from smallvision.sweeps.study import Study
from smallvision.sweeps.trial import Reason, TrialRun

RESULTS = Results("completed", "fit", 0, "cpu", "32-true", DataResults("shapes", "made", "0"), ModelResults("mnist", 1),
                  "adam", epochs=4)  # fmt: skip


def learning_rate(run: TrialRun) -> float:
    typed = dict(line.split("=", 1) for line in run.overrides)
    return float(typed.get("optimizer.lr", 0))


def complete(study: Study, run: TrialRun, value: float, status: str = "completed") -> None:
    study.store(run, replace(RESULTS, status=status, metrics={"val/acc": value}))


def run_all(study: Study, value: Callable[[TrialRun], float] = learning_rate) -> list[str]:
    """Complete every run that is left; their directories' names."""
    names = []
    while (run := study.next_run([])) is not None:
        names.append(run.directory.name)
        complete(study, run, value(run))
    return names


def values_of(study: Study) -> list[float | None]:
    return [trial.value for trial in study.trials.values()]


def test_a_grid_runs_each_combination_once_and_in_order(tmp_path):
    plan = make_plan(tmp_path, "optimizer.lr=0.3,0.1", "model=mnist,lenet5")
    study = Study.create(plan)
    first = study.next_run([])
    second = study.next_run([first])
    typed = [f"{key}={value}" for params in grid(plan.dimensions)[:2] for key, value in params.items()]
    assert [line for run in (first, second) for line in run.overrides if line in typed] == typed
    complete(study, second, 0.5)
    complete(study, first, 0.6)
    assert run_all(study) == ["2", "3"]
    view = read_study(study)
    assert [trial.value for trial in view.trials] == [0.6, 0.5, 0.1, 0.1]
    assert view.best.number == 0


def test_an_interrupted_run_is_continued_before_a_new_one_starts(tmp_path):
    study = Study.create(make_plan(tmp_path, "optimizer.lr=0.3,0.1"))
    first = study.next_run([])
    assert [trial.state for trial in read_runs(study).trials] == ["interrupted"]
    with FileLock(tmp_path / ".lock"):  # a sweep is at work
        assert [trial.state for trial in read_runs(study).trials] == ["running"]
    second = study.next_run([first])
    assert [study.next_run([]), study.next_run([first]), study.next_run([first, second])] == [first, second, None]
    assert (first.directory, second.directory) == (tmp_path / "0", tmp_path / "1")


def test_a_trial_killed_between_its_last_value_and_its_end_is_complete(tmp_path):
    plan = make_plan(tmp_path, "optimizer.lr=0.3,0.1")
    study = Study.create(plan)
    study.next_run([])
    study._set(study.trials[0], "value/0", 0.7)
    again = Study.create(plan)
    assert run_all(again) == ["1"]
    assert values_of(again) == [0.7, 0.1]


def test_the_value_of_a_trial_is_its_mean_over_seeds(tmp_path):
    study = Study.create(make_plan(tmp_path, "optimizer.lr=0.3,0.1", seeds=[0, 1, 2]))
    assert run_all(study, lambda run: run.number + run.seed) == [
        "0-seed0", "0-seed1", "0-seed2", "1-seed0", "1-seed1", "1-seed2"]  # fmt: skip
    assert values_of(study) == [fmean([0, 1, 2]), fmean([1, 2, 3])]
    first = read_study(study).trials[0]
    assert (first.values, first.sample.deviation) == ({0: 0, 1: 1, 2: 2}, 1.0)


def test_the_seeds_of_a_trial_run_at_the_same_time(tmp_path):
    study = Study.create(make_plan(tmp_path, seeds=[0, 1]))
    first = study.next_run([])
    second = study.next_run([first])
    assert (first.seed, second.seed) == (0, 1)
    complete(study, second, 0.2)
    complete(study, first, 0.4)
    assert values_of(study) == [pytest.approx(0.3)]


def test_with_a_pruner_the_seeds_of_a_trial_wait_for_each_other(tmp_path):
    study = Study.create(make_plan(tmp_path, "optimizer.lr=0.3,0.1", seeds=[0, 1], pruner="median"))
    first = study.next_run([])
    second = study.next_run([first])
    assert [first.directory.name, second.directory.name] == ["0-seed0", "1-seed0"]
    assert study.next_run([first, second]) is None


def test_a_pruned_trial_runs_no_more_seeds(tmp_path):
    options = {"n_startup_trials": 2}
    study = Study.create(make_plan(tmp_path, "optimizer.lr=0.9,0.8,0.1", seeds=[0, 1, 2], pruner="median",
                                   pruner_options=options))  # fmt: skip
    names = []
    while (run := study.next_run([])) is not None:
        names.append(run.directory.name)
        value = learning_rate(run)
        pruned = any([study.report(run, {epoch: value}) for epoch in (1, 2, 3, 4)])
        complete(study, run, value, "pruned" if pruned else "completed")
    assert names[-1] == "2-seed0"
    assert study.trials[2].state == TrialState.PRUNED
    assert study.trials[2].user_attrs["reason"] == "median pruner, after epoch 4"


def test_the_wilcoxon_pruner_compares_seed_by_seed(tmp_path):
    study = Study.create(make_plan(tmp_path, "optimizer.lr=0.9,0.1", seeds=[*range(8)], pruner="wilcoxon"))
    names = run_all(study, lambda run: learning_rate(run) + run.seed / 100)
    assert names[:8] == [f"0-seed{seed}" for seed in range(8)]
    assert 2 <= len(names[8:]) < 8
    assert study.trials[1].state == TrialState.PRUNED
    assert "clearly worse" in study.trials[1].user_attrs["reason"]


def test_a_failed_trial_leaves_the_others_alone_and_is_retried_on_request(tmp_path):
    study = Study.create(make_plan(tmp_path, "optimizer.lr=0.3,0.2,0.1"))
    study.fail(study.next_run([]), Reason("the loss became NaN\nmore of it"))
    complete(study, study.next_run([]), 0.2)
    assert study.retry_failed() == 1
    retried = study.next_run([])
    assert (retried.number, learning_rate(retried), retried.directory.name) == (0, 0.3, "0")
    complete(study, retried, 0.5)
    assert run_all(study) == ["2"]
    trials = read_study(study).trials
    assert [(trial.number, trial.state, trial.value) for trial in trials] == [
        (0, "done", 0.5), (1, "done", 0.2), (2, "done", 0.1)]  # fmt: skip
    assert study.retry_failed() == 0


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_sampled_values_depend_on_the_trial_s_number_and_not_on_the_process(tmp_path, method):
    space = ["optimizer.lr=tag(log,interval(1e-4,1e-1))", "model=mnist,lenet5", "data.size=int(interval(8,32))"]
    sampled = []
    for restarts in (False, True):
        directory = tmp_path / f"{len(sampled)}"
        directory.mkdir()
        plan = make_plan(directory, *space, method=method, count=14)
        study = Study.create(plan)
        for _ in range(14):
            study = Study.create(plan) if restarts else study  # as a new process would
            run = study.next_run([])
            complete(study, run, -learning_rate(run))
        sampled.append([trial.params for trial in study.trials.values()])
        assert study.next_run([]) is None
    assert sampled[0] == sampled[1]
    assert len({json.dumps(params) for params in sampled[0]}) == 14


def test_a_trial_killed_while_it_was_sampled_gets_its_other_values(tmp_path):
    plan = make_plan(tmp_path, "optimizer.lr=interval(0,1)", "optimizer.eps=interval(0,1)", method="random")
    study = Study.create(plan)
    study.optuna.ask({"optimizer.lr": plan.dimensions[0].distribution})  # and here the process is killed
    study = Study.create(plan)
    run = study.next_run([])
    assert run.number == 0
    assert {"optimizer.lr", "optimizer.eps"} <= {line.split("=")[0] for line in run.overrides}


def test_values_sampled_before_are_not_run_twice(tmp_path):
    study = Study.create(make_plan(tmp_path, "model=mnist,lenet5", method="random", count=8))
    assert len(run_all(study)) == 2
    assert [trial.state for trial in study.trials.values()] == [TrialState.COMPLETE] * 8
    assert sum(trial.same_as is not None for trial in read_study(study).trials) == 6


def test_a_changed_sweep_is_refused_with_what_changed(tmp_path):
    plan = make_plan(tmp_path, "optimizer.lr=0.3,0.1")
    Study.create(plan)
    Study.create(plan)
    for changed, message in [
        (make_plan(tmp_path, "optimizer.lr=0.3,0.2"), "space of optimizer.lr was 0.3,0.1 and is now 0.3,0.2"),
        (make_plan(tmp_path), "space of optimizer.lr was 0.3,0.1 and is now not set"),
        (replace(plan, seeds=[0, 1]), "seeds was 0 and is now 0,1"),
        (replace(plan, metric="val/loss"), "sweep.metric was val/acc and is now val/loss"),
        (replace(plan, fixed=[*plan.fixed, "trainer.max_epochs=5"]), "trainer.max_epochs was 2 and is now 5"),
    ]:
        with pytest.raises(UserError, match=message):
            Study.create(changed)


def test_a_search_with_more_trials_goes_on_where_it_ended(tmp_path):
    plan = make_plan(tmp_path, "optimizer.lr=interval(0,1)", method="random", count=3)
    assert run_all(Study.create(plan)) == ["0", "1", "2"]
    assert run_all(Study.create(replace(plan, count=5))) == ["3", "4"]


def test_an_incomplete_last_line_of_the_journal_loses_no_trial(tmp_path):
    plan = make_plan(tmp_path, "optimizer.lr=0.3,0.1")
    study = Study.create(plan)
    complete(study, study.next_run([]), 0.3)
    with (tmp_path / JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":6,"worker_id":"x')  # a kill, or a full disk
    assert run_all(Study(plan)) == ["1"]
    assert values_of(Study.create(plan)) == [0.3, 0.1]


def test_processes_that_ask_at_once_start_each_trial_once(tmp_path, monkeypatch):
    """Whoever asks is numbered by the storage; what is one too many is put aside."""
    plan = make_plan(tmp_path, "optimizer.lr=0.3,0.1")
    study, other = Study.create(plan), Study.create(plan)
    assert study.next_run([]).number == 0
    new_trial = study._new_trial

    def overtaken():
        other._start_trial()
        return new_trial()

    monkeypatch.setattr(study, "_new_trial", overtaken)
    assert study._start_trial() is None
    assert [trial.params["optimizer.lr"] for trial in study.trials.values()] == ["0.3", "0.1"]
    assert len(study.optuna.get_trials()) == 3


@pytest.mark.parametrize(
    ("address", "message"),
    [("redis://localhost", "redis is not supported"), ("nonsense://x", "nonsense"), ("no/file", "No such file")],
)
def test_a_storage_that_cannot_be_opened_is_named(tmp_path, address, message):
    with pytest.raises(UserError, match=f"sweep.storage.*{message}"):
        open_storage(address, tmp_path, adopt_minutes=10)


def test_a_driver_that_is_missing_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"its driver is not installed: pip install 'smallvision\[postgres\]'"):
        open_storage("postgresql://me@127.0.0.1/none", tmp_path, adopt_minutes=10)


def test_two_machines_share_a_database_and_leave_each_other_s_trials_alone(tmp_path):
    storage = f"sqlite:///{tmp_path}/shared.db"
    studies = []
    for directory in (tmp_path / "here", tmp_path / "there"):
        directory.mkdir()
        studies.append(Study.create(make_plan(directory, "optimizer.lr=0.4,0.3,0.2,0.1", storage=storage)))
    here, there = studies
    here.next_run([])  # and here the process is killed; only its own machine has what it saved
    assert run_all(there) == ["1", "2", "3"]
    assert run_all(here) == ["0"]


def test_a_dead_process_s_trial_is_adopted_by_one_other_and_no_more_its_own(tmp_path):
    storage, studies = f"sqlite:///{tmp_path}/shared.db", []
    for name in ("dead", "one", "other"):
        (tmp_path / name).mkdir()
        studies.append(Study.create(make_plan(tmp_path / name, "optimizer.lr=0.2,0.1", storage=storage)))
    dead, one, other = studies
    run = dead.next_run([])
    trial = dead.trials[0]
    assert not one.take(trial)
    dead.keep_alive()
    with dead.database.engine.begin() as connection:
        connection.execute(text("UPDATE trial_heartbeats SET heartbeat = datetime(heartbeat, '-11 minutes')"))
    one.stale = other.stale = one.database.stale(one.optuna._study_id)
    assert one.stale == {trial._trial_id}
    assert [one.take(trial), other.take(trial)] == [True, False]
    other.stale = {trial._trial_id}  # other had looked before one took it
    assert not other.take(other.trials[0])
    assert other.at_work_elsewhere()
    complete(dead, run, 0.5)
    assert run_all(one) == ["0", "1"]
    assert values_of(dead) == [0.2, 0.1]
    for study in (dead, one):  # of which the first has what was left of an attempt
        for number in ("0", "1"):
            (study.plan.directory / number).mkdir()
    assert [trial.runs for trial in read_runs(dead).trials] == [{}, {}]
    assert [trial.runs for trial in read_runs(one).trials] == [
        {0: tmp_path / "one/0"}, {0: tmp_path / "one/1"}]  # fmt: skip


def test_the_same_host_goes_on_at_once_with_what_a_killed_process_left_in_a_directory(tmp_path):
    plan = make_plan(tmp_path, "optimizer.lr=0.2,0.1", storage=f"sqlite:///{tmp_path}/shared.db")
    killed, again = Study.create(plan), Study.create(plan)
    killed.next_run([])
    assert again.next_run([]).number == 1
    killed.close()
    assert again.next_run([]).number == 0


def test_the_journal_grows_with_the_number_of_trials(tmp_path):
    study = Study.create(make_plan(tmp_path, "optimizer.lr=range(0,100)"))
    assert len(run_all(study)) == 100
    assert len((tmp_path / JOURNAL).read_bytes().splitlines()) < 12 * 100


@pytest.mark.parametrize(
    "journal",
    [
        b"no journal\n{}\n",
        b'{"op_code":0,"worker_id":"x","study_name":"another","directions":[2]}\n',
        b'{"op_code":99}\n{"op_code":3}\n',
        b"[" * 100_000 + b"\n",
        b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00echotR.\n",
        b"",
    ],
)
def test_a_file_that_is_no_journal_is_refused_by_name(tmp_path, journal):
    make_plan(tmp_path).write()
    (tmp_path / JOURNAL).write_bytes(journal)
    with pytest.raises(UserError, match=JOURNAL):
        read_sweep(tmp_path)


@pytest.mark.parametrize(
    "plan", [b"", b"[]", b"\xff\xfe", b"dimensions: [1]", b"!!python/object/apply:os.getcwd []", b"[" * 9999]
)
def test_a_file_that_is_no_plan_is_refused_by_name(tmp_path, plan):
    Study.create(make_plan(tmp_path))
    (tmp_path / PLAN_FILE).write_bytes(plan)
    with pytest.raises(UserError, match=PLAN_FILE):
        read_sweep(tmp_path)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    plan = make_plan(tmp_path, "optimizer.lr=tag(log,interval(1e-4,0.1))", "model=a,b", method="tpe", seeds=[1, 2])
    plan.write()
    assert Plan.read(tmp_path, None) == plan


def test_the_storage_that_a_plan_names_is_not_opened(tmp_path):
    make_plan(tmp_path, storage=f"sqlite:///{tmp_path}/elsewhere.db").write()
    with pytest.raises(UserError, match="needs storage=ADDRESS"):
        read_sweep(tmp_path)
    assert not (tmp_path / "elsewhere.db").exists()
