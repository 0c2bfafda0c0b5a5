"""From the command line after -m to a plan, or to a refusal. In the test's process, and nothing is trained."""

import sys
from pathlib import Path

import pytest
from helpers.command import TRAIN
from helpers.sweep_plans import SMALL

from smallvision import cli
from smallvision.core.system import STOP
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.study import Study
from smallvision.sweeps.sweep import Sweep
from smallvision.sweeps.trial import TrialRun


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands run in an empty folder up to the point where runs would start."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(STOP, "install", lambda: None)
    monkeypatch.setattr(Sweep, "run", lambda *_: None)


def train(monkeypatch: pytest.MonkeyPatch, *overrides: str) -> int:
    """The exit code of that command line."""
    monkeypatch.setattr(sys, "argv", [str(TRAIN), *overrides])
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimizer.lr=interval(0,1)"], "a grid cannot enumerate an interval"),
        (["optimizer.lr=-1,-2"], "optimizer.lr=-1: must be a number above 0"),
        (["optimizer.lr=0.1,-1"], "optimizer.lr=-1: must be a number above 0"),
        (["optimizer=sgd,adam", "optimizer.lr=0.1,0.2,0.3,x", "seed=0,1"], "optimizer.lr=x: must be a number above 0"),
        (["sweep=tpe", "sweep.trials=2", "optimizer.lr=0.1,0.2,-1"], "optimizer.lr=-1: must be a number above 0"),
        (["rerun=run", "seed=0,1"], "rerun: a sweep composes its runs from the configs"),
        (["optimizer.lrr=1,2"], "optimizer.lrr: no such key. Did you mean 'optimizer.lr'?"),
        (["optimizer=adm,sdg"], "optimizer=adm: no such choice. Did you mean 'adam'?"),
        (["sweep=tpe"], "sweep=tpe: nothing to search"),
        (["sweep.metric=test/acc", "seed=0,1"], "ranks its trials by validation images, never by others"),
        (["seed=0,x"], "seeds are whole numbers"),
        (["seed=x", "optimizer.lr=0.1,0.2"], "seed=x: must be a whole number"),
        (["trainer.max_epochs=x", "seed=0,1"], "trainer.max_epochs=x: must be a whole number"),
        (["seed=0,1", "sweep.seeds=2"], "lists the seeds; sweep.seeds=2 counts them"),
        (["sweep.workers=1,2"], "takes one value for the whole sweep"),
        (["sweep.workers=0", "seed=0,1"], "sweep.workers=0: must be null or a whole number from 1 to 1024"),
        (["task=test,fit"], "task: a sweep consists of fits"),
        (["resume=a,b"], "resume: the same sweep command again continues a sweep"),
        (["data.val_size=0", "seed=0,1"], "a sweep ranks its trials by validation images"),
        (["trainer.devices=[0,1]", "seed=0,1"], "how many for each run of a sweep"),
        (["trainer.num_nodes=2", "seed=0,1"], "trainer.num_nodes=2: 1 for each run of a sweep"),
        (["sweep.pruner=threshold", "seed=0,1"], "sweep.pruner_options: "),
        (["sweep.storage=redis://x", "seed=0,1"], "redis is not supported"),
    ],
)  # fmt: skip
def test_what_cannot_be_swept_is_refused_at_once(monkeypatch, capsys, overrides, message):
    assert train(monkeypatch, "-m", *overrides) == 2
    line = capsys.readouterr().err
    assert message in line
    assert line.startswith("error: ")
    assert line.count("\n") == 1


def test_a_choice_of_sweeps_without_m_is_refused(monkeypatch, capsys):
    assert train(monkeypatch, "sweep.workers=2") == 2
    assert "error: sweep.workers: goes with a sweep: " in (error := capsys.readouterr().err)
    assert error.endswith("train.py -m sweep.workers=2\n")


def test_an_experiment_may_be_a_sweep_and_what_is_typed_is_not_searched(monkeypatch, tmp_path):
    code = train(monkeypatch, "-m", "experiment=mnist_sweep", *SMALL, "data.size=28", "sweep.trials=12",
                 "data.batch_size=50", "hydra.sweep.dir=kept")  # fmt: skip
    assert code == 0
    study = Study(Plan.read(tmp_path / "kept", None))
    assert (study.plan.method, study.count) == ("tpe", 12)
    assert {dimension.key for dimension in study.plan.dimensions} == {"optimizer.lr", "scheduler.warmup"}
    assert "data.batch_size=50" in study.plan.fixed
    runs: list[TrialRun] = []
    while (run := study.next_run(runs)) is not None:
        typed = dict(line.split("=", 1) for line in run.overrides)
        assert 3e-4 <= float(typed["optimizer.lr"]) <= 3e-2
        assert 0.05 <= float(typed["scheduler.warmup"]) <= 0.5
        runs.append(run)
    assert len(study.trials) == len(runs) == 12


def test_the_same_command_gets_the_same_directory_and_another_one_another(monkeypatch, tmp_path):
    for seeds in ("0,1", "0,1", "0,2"):
        assert train(monkeypatch, "-m", *SMALL, f"seed={seeds}") == 0
    assert len([*(tmp_path / "outputs/sweeps").iterdir()]) == 2


def test_groups_are_searched_before_the_keys_in_them(monkeypatch, tmp_path):
    assert train(monkeypatch, "-m", "optimizer.lr=0.1,0.2", "optimizer=sgd,adam", "hydra.sweep.dir=s") == 0
    plan = Plan.read(tmp_path / "s", None)
    assert [dimension.key for dimension in plan.dimensions] == ["optimizer", "optimizer.lr"]
