"""task=descent: whole runs, from what is typed to what is written."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from helpers.command import results
from helpers.forks import train
from PIL import Image


def steps_of(run: Path) -> list[dict[str, Any]]:
    with (run / "descent.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_nothing_more_than_the_task_is_the_tutorials_walk(tmp_path):
    process = train(tmp_path, "task=descent")
    assert (process.returncode, process.stderr) == (0, "")
    (run,) = (tmp_path / "outputs/descent/parabola-gd").iterdir()
    rows = steps_of(run)
    assert [float(row["x"]) for row in rows] == pytest.approx([-1 + 11 * 0.4**k for k in range(21)])
    assert [float(row["value"]) for row in rows] == pytest.approx([-12 + 363 * 0.16**k for k in range(21)])
    assert [int(row["step"]) for row in rows] == list(range(21))
    assert {(row["function"], row["optimizer"], row["y"]) for row in rows} == {("parabola", "gd, lr 0.1", "")}
    assert [row["lr"] for row in rows] == ["", *["0.1"] * 20]
    found = results(run)
    assert (found["status"], found["task"], found["optimizer"], found["steps"]) == (
        "completed", "descent", "gd", 20,
    )  # fmt: skip
    assert set(found["metrics"]) == {f"{part}/{one}" for part in ("train", "val", "test") for one in ("loss", "acc")}
    assert found["descent"][0]["converged_after"] == 6
    with Image.open(run / "descent.png") as picture:
        assert picture.size[0] > 1000
    assert {file.name for file in run.iterdir() if file.name[0] != "."} == {
        "config.yaml", "overrides.yaml", "environment.json", "results.json", "train.log", "descent.csv",
        "descent.png",
    }  # fmt: skip
    assert "gd, lr 0.1" in process.stdout
    assert "after step 6" in process.stdout


def test_sgd_without_momentum_is_the_same_walk(tmp_path):
    typed = ["optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0", "hydra.run.dir=run"]
    assert train(tmp_path, "task=descent", *typed).returncode == 0
    rows = steps_of(tmp_path / "run")
    assert [float(row["x"]) for row in rows] == pytest.approx([-1 + 11 * 0.4**k for k in range(21)])
    assert rows[0]["optimizer"] == "sgd, lr 0.1, momentum 0"


def test_all_functions_several_optimizers_and_rates_side_by_side(tmp_path):
    typed = ["descent.function=all", "descent.rates=0.5", "descent.against=[gd,sgd@0.01,muon]"]
    process = train(
        tmp_path, "task=descent", "optimizer=adam", *typed, "descent.steps=3",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    found = results(tmp_path / "run")["descent"]
    names = ["adam, lr 0.001", "adam, lr 0.5", "gd, lr 0.1", "sgd, lr 0.01, momentum 0.9",
             "muon, lr 0.24, momentum 0.6"]  # fmt: skip
    functions = ["parabola", "ravine", "rosenbrock", "himmelblau"]
    assert [(one["function"], one["optimizer"]) for one in found] == [(f, n) for f in functions for n in names]
    assert all(f"  {name}" in process.stdout for name in [*functions, *names])
    assert "hardly moved: adam, lr 0.001" in process.stdout
    assert "muon treats the point as a matrix of one row" in process.stdout
    rows = steps_of(tmp_path / "run")
    assert len(rows) == sum(one["steps"] + 1 for one in found)


def test_a_rate_that_diverges_is_told_and_drawn_and_its_figures_stay_plain_json(tmp_path):
    typed = ["descent.function=rosenbrock", "descent.against=sgd@1e3"]
    process = train(tmp_path, "task=descent", *typed, "hydra.run.dir=run")
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout.count("diverged after step 1") == 2
    assert "converges below lr 0.002" in process.stdout

    def none(word: str) -> None:
        raise AssertionError(word)

    found = json.loads((tmp_path / "run/results.json").read_text(), parse_constant=none)
    assert [one["diverged_after"] for one in found["descent"]] == [1, 1]
    assert (tmp_path / "run/descent.png").stat().st_size > 10_000


def test_a_schedule_a_start_and_a_moving_picture_are_as_typed(tmp_path):
    typed = [
        "scheduler=linear",
        "descent.start=[3,-1]",
        "descent.function=ravine",
        "descent.steps=4",
        "descent.animation=true",
    ]
    assert train(tmp_path, "task=descent", *typed, "hydra.run.dir=run").returncode == 0
    rows = steps_of(tmp_path / "run")
    assert (rows[0]["x"], rows[0]["y"]) == ("3.0", "-1.0")
    assert [float(row["lr"]) for row in rows[1:]] == pytest.approx([0.0875, 0.0625, 0.0375, 0.0125])
    with Image.open(tmp_path / "run" / "descent.gif") as moving:
        assert moving.n_frames == 5


def test_its_config_runs_it_again(tmp_path):
    typed = ["optimizer=adam", "optimizer.lr=0.3", "descent.against=gd@0.05"]
    assert train(tmp_path, "task=descent", *typed, "hydra.run.dir=run").returncode == 0
    again = train(tmp_path, f"--config-path={tmp_path / 'run'}", "--config-name=config", "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again/descent.csv").read_text() == (tmp_path / "run/descent.csv").read_text()


def test_a_report_takes_it_for_a_run_that_trained_nothing(tmp_path):
    assert train(tmp_path, "task=descent", "descent.steps=1", "hydra.run.dir=run").returncode == 0
    assert train(tmp_path, "task=report", "runs=.").stderr == "error: runs=.: no trained runs there\n"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["descent.function=cubic"], "descent.function=cubic: must be one of parabola, ravine"),
        (["descent.start=[1,2]"], "descent.start=[1, 2]: a point of parabola is one number"),
        (["descent.function=ravine", "descent.start=1"], "a point of ravine is two numbers, [x,y]"),
        (["descent.function=all", "descent.start=1"], "descent.start: goes with one function"),
        (["descent.start=1e9"], "descent.start=1000000000.0: must be"),
        (["descent.steps=0"], "descent.steps=0: must be"),
        (["descent.rates=[0.1,0]"], "descent.rates=[0.1, 0]: must be"),
        (["descent.rates=[1,2,3,4,5,6,7]"], "descent.against, descent.rates: 8 optimizers; use at most 7"),
        (["descent.against=[adm]"], "descent.against=adm: no such optimizer. Did you mean 'adam'?"),
        (["descent.against=[../optimizer/adam]"], "no such optimizer."),
        (["descent.against=adam@fast"], "descent.against=adam@fast: a learning rate above 0 goes after the @"),
        (["descent.against=adam@-1"], "descent.against=adam@-1: a learning rate above 0 goes after the @"),
        (["descent.against=1"], "descent.against=1: must be text"),
        (["descent.animation=1"], "descent.animation=1: must be true or false"),
        (["descent.speed=1"], "descent.speed: no such key."),
        (["optimizer.nesterov=true"], "optimizer=gd: Nesterov"),
        (["optimizer.lr=0"], "optimizer.lr=0: must be a number above 0"),
        (["device=cuda"], "device=cuda: task=descent runs on the CPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_in_one_line_and_leaves_nothing(typed, said, tmp_path):
    process = train(tmp_path, "task=descent", *typed)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.startswith("error: ")
    assert said in process.stderr
    assert process.stderr.count("\n") == 1
    assert not [*tmp_path.rglob("*.*")]
