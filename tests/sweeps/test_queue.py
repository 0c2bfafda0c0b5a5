"""Which run comes next, and what is told of it, without any training."""

import dataclasses
import json
import time
from pathlib import Path
from statistics import fmean

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from smallvision.core.errors import Pruned, UserError
from smallvision.sweeps import collect
from smallvision.sweeps import study as store
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import dimension, grid
from smallvision.sweeps.study import Queue

PARSER = OverridesParser.create()


def plan_of(directory: Path, *lines: str, method: str = "grid", **more) -> Plan:
    dimensions = [dimension(PARSER.parse_override(line), method == "grid") for line in lines]
    chosen = {
        "name": "a", "directory": directory, "configs": Path("configs"), "config_name": "train",
        "method": method, "dimensions": dimensions, "fixed": ["trainer.max_epochs=4"], "seeds": [0],
        "metric": "val/acc", "maximize": True, "epochs": 4,
        "count": len(grid(dimensions)) if method == "grid" else 5, **more,
    }  # fmt: skip
    return Plan(**chosen)


def run_all(queue: Queue, figure=lambda claim: float(claim.params.get("optimizer.lr", 0))) -> list[str]:
    ran = []
    while (claim := queue.next()) is not None:
        ran.append(claim.directory.name)
        queue.done(claim, figure(claim))
    return ran


def test_a_grid_runs_each_combination_once_and_in_order(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1", "model=mnist,lenet5")
    study = store.begin(plan)
    one, two = Queue(plan, "one"), Queue(plan, "two")
    first, second = one.next(), two.next()
    assert [first.params, second.params] == grid(plan.dimensions)[:2]
    two.done(second, 0.5)
    one.done(first, 0.6)
    assert run_all(one) == ["2", "3"]
    assert two.next() is None
    view = collect.view(plan, study, tmp_path)
    assert [trial.value for trial in view.trials] == [0.6, 0.5, 0.1, 0.1]
    assert view.best.number == 0


def test_a_run_that_nobody_holds_any_more_is_taken_up_again(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1")
    study = store.begin(plan)
    claim = Queue(plan, "one").next()
    other = Queue(plan, "two")
    held = other.next()
    assert held.number == 1, "what a living worker holds is not taken"
    claim.lock.release()  # as the kernel does when its holder dies
    assert [one.state for one in collect.view(plan, study, tmp_path, whole=True).trials] == [
        "interrupted", "running"]  # fmt: skip
    again = other.next()
    assert (again.number, again.directory) == (0, tmp_path / "0")


def test_a_trial_that_was_killed_between_its_last_figure_and_its_end_is_over(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1")
    study = store.begin(plan)
    claim = Queue(plan, "one").next()
    claim.trial.set_user_attr("value/0", 0.7)
    claim.lock.release()  # as the kernel does when its holder dies
    assert run_all(Queue(plan, "two")) == ["1"]
    assert [trial.value for trial in study.trials] == [0.7, 0.1]


def test_the_value_of_a_configuration_is_its_mean_over_seeds(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1", seeds=[0, 1, 2])
    study = store.begin(plan)
    queue = Queue(plan, "one")
    assert run_all(queue, lambda claim: claim.number + claim.seed) == [
        "0-seed0", "0-seed1", "0-seed2", "1-seed0", "1-seed1", "1-seed2"]  # fmt: skip
    assert [trial.value for trial in study.trials] == [fmean([0, 1, 2]), fmean([1, 2, 3])]
    view = collect.view(plan, study, tmp_path)
    assert view.trials[0].values == {0: 0, 1: 1, 2: 2}
    assert view.trials[0].deviation == 1.0


def test_seeds_of_one_configuration_run_side_by_side(tmp_path):
    plan = plan_of(tmp_path, seeds=[0, 1])
    store.begin(plan)
    one, two = Queue(plan, "one"), Queue(plan, "two")
    first, second = one.next(), two.next()
    assert (first.seed, second.seed) == (0, 1)
    two.done(second, 0.2)
    one.done(first, 0.4)
    assert one.study.trials[0].value == pytest.approx(0.3)


def test_with_a_pruner_the_seeds_of_a_configuration_wait_for_each_other(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1", seeds=[0, 1], pruner="median")
    store.begin(plan)
    one, two = Queue(plan, "one"), Queue(plan, "two")
    held = [one.next(), two.next()]
    assert [claim.directory.name for claim in held] == ["0-seed0", "1-seed0"]
    assert two.next() is None


def test_a_pruned_repetition_runs_no_more_seeds(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.9,0.8,0.1", seeds=[0, 1, 2], pruner="median",
                   pruner_options={"n_startup_trials": 2})  # fmt: skip
    study = store.begin(plan)
    queue, ran = Queue(plan, "one"), []
    while (claim := queue.next()) is not None:
        ran.append(claim.directory.name)
        try:
            for epoch in (1, 2, 3, 4):
                queue.report(claim, [(epoch, float(claim.params["optimizer.lr"]))])
            queue.done(claim, float(claim.params["optimizer.lr"]))
        except Pruned as reason:
            queue.pruned(claim, str(reason))
    assert ran[-1] == "2-seed0"
    assert study.trials[2].state == TrialState.PRUNED
    assert study.trials[2].user_attrs["reason"] == "median pruner"


def test_the_wilcoxon_pruner_compares_seed_by_seed(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.9,0.1", seeds=[*range(8)], pruner="wilcoxon")
    study = store.begin(plan)
    ran = run_all(Queue(plan, "one"), lambda claim: float(claim.params["optimizer.lr"]) + claim.seed / 100)
    assert ran[:8] == [f"0-seed{seed}" for seed in range(8)]
    assert 2 <= len(ran[8:]) < 8
    assert study.trials[1].state == TrialState.PRUNED
    assert "clearly worse" in study.trials[1].user_attrs["reason"]


def test_a_trial_that_fails_takes_no_other_with_it_and_is_tried_again_on_request(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1")
    study = store.begin(plan)
    queue = Queue(plan, "one")
    queue.failed(queue.next(), "the loss turned nan\nmore of it")
    assert run_all(queue) == ["1"]
    assert store.retry_failed(study) == 1
    again = queue.next()
    assert (again.number, again.params, again.directory.name) == (0, {"optimizer.lr": "0.3"}, "0")
    queue.done(again, 0.5)
    view = collect.view(plan, study, tmp_path)
    assert [(trial.number, trial.state, trial.value) for trial in view.trials] == [
        (0, "done", 0.5), (1, "done", 0.1)]  # fmt: skip
    assert store.retry_failed(study) == 0


def test_what_a_dead_worker_was_at_is_recorded_with_its_reason(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1")
    study = store.begin(plan)
    claims = [Queue(plan, name).next() for name in ("one", "two")]
    assert Queue(plan, "sweep").abandon("two", "killed by SIGKILL\nlast line") == [1]
    view = collect.view(plan, study, tmp_path)
    assert [trial.state for trial in view.trials] == ["running", "failed"]
    assert view.trials[1].reason == "killed by SIGKILL\nlast line"
    del claims


@pytest.mark.parametrize("method", ["random", "tpe"])
def test_what_is_drawn_depends_on_the_trial_s_number_and_not_on_who_draws(tmp_path, method):
    lines = [
        "optimizer.lr=tag(log,interval(1e-4,1e-1))",
        "model=mnist,lenet5",
        "data.size=int(interval(8,32))",
    ]
    drawn = []
    for workers in (["one"] * 14, ["one", *["two"] * 6, *["three"] * 7]):
        folder = tmp_path / f"{len(drawn)}"
        folder.mkdir()
        plan = plan_of(folder, *lines, method=method, count=14)
        study = store.begin(plan)
        for name in workers:
            queue = Queue(plan, name)  # a new process at each name
            claim = queue.next()
            queue.done(claim, -float(claim.params["optimizer.lr"]))
        drawn.append([trial.params for trial in study.trials])
        assert Queue(plan, "last").next() is None
    assert drawn[0] == drawn[1]
    assert len({json.dumps(params) for params in drawn[0]}) == 14


def test_a_killed_draw_is_drawn_to_its_end(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=interval(0,1)", "optimizer.eps=interval(0,1)", method="random")
    study = store.begin(plan)
    queue = Queue(plan, "one")
    study.sampler = queue._sampler(0)
    study.ask({"optimizer.lr": plan.dimensions[0].distribution})  # and here the process is killed
    claim = queue.next()
    assert claim.number == 0
    assert set(claim.params) == {"optimizer.lr", "optimizer.eps"}


def test_values_that_were_drawn_before_are_not_run_twice(tmp_path):
    plan = plan_of(tmp_path, "model=mnist,lenet5", method="random", count=8)
    study = store.begin(plan)
    ran = run_all(Queue(plan, "one"), lambda claim: 0.5)
    assert len(ran) == 2
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 8
    view = collect.view(plan, study, tmp_path)
    assert sum(trial.same_as is not None for trial in view.trials) == 6


def test_a_changed_sweep_is_refused_and_says_what_changed(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1")
    store.begin(plan)
    store.begin(plan)
    for changed, said in [
        (plan_of(tmp_path, "optimizer.lr=0.3,0.2"), "space of optimizer.lr was 0.3,0.1 and is now 0.3,0.2"),
        (plan_of(tmp_path), "space of optimizer.lr was 0.3,0.1 and is now not set"),
        (dataclasses.replace(plan, seeds=[0, 1]), "seeds was 0 and is now 0,1"),
        (dataclasses.replace(plan, metric="val/loss"), "sweep.metric was val/acc and is now val/loss"),
        (dataclasses.replace(plan, fixed=["trainer.max_epochs=5"]), "trainer.max_epochs was 4 and is now 5"),
    ]:
        with pytest.raises(UserError, match=said):
            store.begin(changed)


def test_more_trials_of_a_search_go_on_where_it_ended(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=interval(0,1)", method="random", count=3)
    store.begin(plan)
    assert run_all(Queue(plan, "one")) == ["0", "1", "2"]
    more = dataclasses.replace(plan, count=5)
    store.begin(more)
    assert run_all(Queue(more, "one")) == ["3", "4"]


def test_a_line_cut_short_in_the_journal_costs_nothing(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=0.3,0.1")
    store.begin(plan)
    queue = Queue(plan, "one")
    queue.done(queue.next(), 0.3)
    with (tmp_path / store.JOURNAL).open("ab") as journal:
        journal.write(b'{"op_code":6,"worker_id":"x')  # a kill, or a full disk
    fresh = Queue(plan, "two")
    assert run_all(fresh) == ["1"]
    assert [trial.value for trial in store.begin(plan).trials] == [0.3, 0.1]


def test_a_grid_whose_beginning_was_killed_is_written_down_to_its_end(tmp_path, monkeypatch):
    plan = plan_of(tmp_path, "optimizer.lr=range(1,9)")
    enqueue, left = store.optuna.Study.enqueue_trial, [3]

    def killed(self, params):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        enqueue(self, params)

    monkeypatch.setattr(store.optuna.Study, "enqueue_trial", killed)
    with pytest.raises(KeyboardInterrupt):
        store.begin(plan)
    monkeypatch.setattr(store.optuna.Study, "enqueue_trial", enqueue)
    study = store.begin(plan)
    run_all(Queue(plan, "one"))
    assert [trial.params["optimizer.lr"] for trial in study.trials] == [str(value) for value in range(1, 9)]


def test_a_database_that_cannot_be_opened_is_named(tmp_path):
    for address, said in [("redis://localhost", "redis is not supported"), ("nonsense://x", "nonsense"),
                          (str(tmp_path / "no" / "file"), "No such file")]:  # fmt: skip
        with pytest.raises(UserError, match=f"sweep.storage.*{said}"):
            store.open_storage(address, tmp_path)


def test_two_machines_share_a_database_and_leave_each_other_s_trials_alone(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    plans = [plan_of(place, "optimizer.lr=0.4,0.3,0.2,0.1", storage=f"sqlite:///{tmp_path}/shared.db")
             for place in (here, there)]  # fmt: skip
    for plan in plans:
        plan.directory.mkdir()
        store.begin(plan)
    one, two = (Queue(plan, "one") for plan in plans)
    first = one.next()
    first.lock.release()  # cut short; only its own machine has what it saved
    assert run_all(two) == ["1", "2", "3"]
    assert run_all(one) == ["0"]


def test_a_thousand_trials_take_a_time_that_grows_with_their_number(tmp_path):
    plan = plan_of(tmp_path, "optimizer.lr=range(0,300)")
    store.begin(plan)
    queue = Queue(plan, "one")
    started = time.perf_counter()
    assert len(run_all(queue)) == 300
    print(f"{(time.perf_counter() - started) / 300 * 1000:.1f} ms a trial")
    assert len((tmp_path / store.JOURNAL).read_bytes().splitlines()) < 12 * 300


@pytest.mark.parametrize(
    "journal",
    [
        b"no journal\n{}\n",
        b'{"op_code":0,"worker_id":"x","study_name":"a","directions":[2]}\n',
        b'{"op_code":99}\n{"op_code":3}\n',
        b"[" * 100_000 + b"\n",
        b"\x80\x04cos\nsystem\n(X\x04\x00\x00\x00echotR.\n",
        b"",
    ],
)
def test_a_file_that_is_no_journal_is_refused_by_name(tmp_path, journal):
    (tmp_path / store.JOURNAL).write_bytes(journal)
    with pytest.raises(UserError, match=store.JOURNAL):
        collect.read(tmp_path)
