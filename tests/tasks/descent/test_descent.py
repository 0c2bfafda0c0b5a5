"""task=descent: whole runs, from the command line to the files."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.command import results
from helpers.forks import train
from PIL import Image

from smallvision.config.compose import compose
from smallvision.config.resolve import resolve_config
from smallvision.core.errors import UserError
from smallvision.core.run_dir import opened
from smallvision.tasks import descent


def run(path: Path, *typed: str) -> dict[str, Any]:
    """results.json of that command, run in this process."""
    overrides = ["task=descent", *typed]
    config = resolve_config(compose(overrides), overrides)
    path.mkdir()
    with opened(path, overrides) as run_dir:
        descent.run(config, run_dir, None)
    return results(path)


def steps_of(path: Path) -> list[dict[str, Any]]:
    with (path / "descent.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_task_alone_is_the_tutorials_gradient_descent(tmp_path):
    process = train(tmp_path, "task=descent")
    assert (process.returncode, process.stderr) == (0, "")
    (path,) = (tmp_path / "outputs/descent/parabola-gd").iterdir()
    rows = steps_of(path)
    assert [float(row["x"]) for row in rows] == pytest.approx([-1 + 11 * 0.4**k for k in range(21)])
    assert [float(row["value"]) for row in rows] == pytest.approx([-12 + 363 * 0.16**k for k in range(21)])
    assert [int(row["step"]) for row in rows] == list(range(21))
    assert {(row["function"], row["optimizer"], row["y"]) for row in rows} == {("parabola", "gd, lr 0.1", "")}
    assert [row["lr"] for row in rows] == ["", *["0.1"] * 20]
    found = results(path)
    assert (found["status"], found["task"], found["optimizer"], found["steps"]) == (
        "completed", "descent", "gd", 20,
    )  # fmt: skip
    assert set(found["metrics"]) == {f"{part}/{one}" for part in ("train", "val", "test") for one in ("loss", "acc")}
    assert found["descent"][0]["converged_after"] == 6
    with Image.open(path / "descent.png") as image:
        assert image.size[0] > 1000
    assert {file.name for file in path.iterdir() if file.name[0] != "."} == {
        "config.yaml", "overrides.yaml", "environment.json", "results.json", "train.log", "descent.csv",
        "descent.png",
    }  # fmt: skip
    assert "gd, lr 0.1" in process.stdout
    assert "after step 6" in process.stdout
    assert train(tmp_path, "task=report", "runs=outputs").stderr.startswith(
        "error: runs=outputs: no trained runs there"
    )


def test_all_functions_several_optimizers_and_rates_side_by_side(tmp_path, capsys):
    typed = ["descent.function=all", "descent.rates=[0.001,0.5]", "descent.steps=3"]
    others = "descent.compare_with=[gd,sgd@0.01,muon]"
    found = run(tmp_path / "run", "optimizer=adam", others, *typed)["descent"]
    names = ["adam, lr 0.001", "adam, lr 0.5", "gd, lr 0.1", "sgd, lr 0.01, momentum 0.9",
             "muon, lr 0.24, momentum 0.6"]  # fmt: skip
    functions = ["parabola", "ravine", "rosenbrock", "himmelblau"]
    assert [(one["function"], one["optimizer"]) for one in found] == [(f, n) for f in functions for n in names]
    out = capsys.readouterr().out
    assert all(f"  {name}" in out for name in [*functions, *names])
    assert "hardly moved: adam, lr 0.001" in out
    assert "muon treats the point as a matrix of one row" in out
    rows = steps_of(tmp_path / "run")
    assert len(rows) == sum(one["steps"] + 1 for one in found)


@pytest.mark.parametrize(
    ("typed", "rates"),
    [([], [0.1]), (["descent.rates=[0.01,0.3]"], [0.01, 0.3]),
     (["optimizer.lr=0.2", "descent.rates=[0.01,0.3]"], [0.2, 0.01, 0.3])],
)  # fmt: skip
def test_only_the_rates_that_were_asked_for_are_compared(typed, rates):
    overrides = ["task=descent", *typed]
    compared = descent.configs_to_compare(resolve_config(compose(overrides), overrides))
    assert [one.optimizer.lr for one in compared.values()] == rates


def test_divergence_is_reported_and_plotted_and_results_json_stays_standard_json(tmp_path, capsys):
    run(tmp_path / "run", "descent.function=rosenbrock", "descent.compare_with=sgd@1e3")
    out = capsys.readouterr().out
    assert out.count("diverged after step 1") == 2
    assert "converges below lr 0.002" in out

    def refuse_constant(name: str) -> None:
        raise AssertionError(name)

    found = json.loads((tmp_path / "run/results.json").read_text(), parse_constant=refuse_constant)
    assert [one["diverged_after"] for one in found["descent"]] == [1, 1]
    assert (tmp_path / "run/descent.png").stat().st_size > 10_000


def test_schedule_start_and_animation_are_as_typed_and_sgd_without_momentum_is_gradient_descent(tmp_path):
    typed = ["scheduler=linear", "descent.start=[3,-1]", "descent.function=ravine", "descent.steps=4"]
    sgd = ["optimizer=sgd", "optimizer.lr=0.1", "optimizer.momentum=0"]
    run(tmp_path / "run", *typed, *sgd, "descent.compare_with=gd", "descent.animation=true")
    rows = steps_of(tmp_path / "run")
    assert (rows[0]["x"], rows[0]["y"]) == ("3.0", "-1.0")
    assert [float(row["lr"]) for row in rows[1:5]] == pytest.approx([0.0875, 0.0625, 0.0375, 0.0125])
    assert {row.pop("optimizer") for row in rows[:5]} == {"sgd, lr 0.1, momentum 0"}
    assert {row.pop("optimizer") for row in rows[5:]} == {"gd, lr 0.1"}
    assert rows[:5] == rows[5:]
    with Image.open(tmp_path / "run" / "descent.gif") as animation:
        assert animation.n_frames == 5


def test_its_config_runs_it_again(tmp_path):
    run(tmp_path / "run", "optimizer=adam", "optimizer.lr=0.3", "descent.compare_with=gd@0.05")
    again = train(tmp_path, f"--config-path={tmp_path / 'run'}", "--config-name=config", "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "again/descent.csv").read_text() == (tmp_path / "run/descent.csv").read_text()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["descent.function=cubic"], "descent.function=cubic: must be one of parabola, ravine"),
        (["descent.start=[1,2]"], "descent.start=[1, 2]: a point of parabola is one number"),
        (["descent.function=ravine", "descent.start=1"], "a point of ravine is two numbers, [x,y]"),
        (["descent.function=all", "descent.start=1"], "descent.start: goes with one function"),
        (["descent.start=1e9"], "descent.start=1000000000.0: must be"),
        (["descent.steps=0"], "descent.steps=0: must be"),
        (["descent.rates=[0.1,0]"], "descent.rates=[0.1, 0]: must be"),
        (["descent.rates=[1,2,3,4,5,6,7,8]"], "descent.compare_with, descent.rates: 8 optimizers; use at most 7"),
        (["descent.compare_with=[adm]"], "descent.compare_with=adm: no such optimizer. Did you mean 'adam'?"),
        (["descent.compare_with=[../optimizer/adam]"], "no such optimizer."),
        (["descent.compare_with=adam@fast"], "descent.compare_with=adam@fast: a learning rate above 0 goes after the"),
        (["descent.compare_with=adam@-1"], "descent.compare_with=adam@-1: a learning rate above 0 goes after the @"),
        (["descent.compare_with=1"], "descent.compare_with=1: must be text"),
        (["descent.animation=1"], "descent.animation=1: must be true or false"),
        (["+descent.speed=1"], "descent.speed: no such key."),
        (["optimizer.nesterov=true"], "optimizer=gd: Nesterov"),
        (["optimizer.lr=0"], "optimizer.lr=0: must be a number above 0"),
        (["device=cuda"], "device=cuda: task=descent runs on the CPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_choices_are_refused_in_one_line(typed, message, tmp_path, capsys):
    with pytest.raises(UserError, match=re.escape(message)) as refusal:
        run(tmp_path / "run", *typed)
    assert "\n" not in str(refusal.value)
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "run").exists()


def test_a_refusal_leaves_nothing_behind(tmp_path):
    process = train(tmp_path, "task=descent", "descent.compare_with=[adm]")
    assert (process.returncode, process.stdout) == (2, "smallvision: descent on parabola\n")
    assert process.stderr == ("error: descent.compare_with=adm: no such optimizer. Did you mean 'adam'?\n")
    assert not [*tmp_path.rglob("*.*")]
