"""task=report compares runs by validation; of a single run it draws the page anew."""

import csv
import io
from pathlib import Path

import pytest
from helpers.forks import train
from helpers.run_files import a_run, config
from rich.console import Console

from smallvision.reports.comparison import compare
from smallvision.reports.run_view import RunView
from smallvision.tasks import report


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two seeds of one configuration, a better one, a test and a prediction."""
    for seed in (0, 1):
        a_run(tmp_path / f"runs/a{seed}", 0.8, seed=seed)
    a_run(tmp_path / "runs/deep/b", 0.9, configured=config(optimizer__lr=0.1))
    a_run(tmp_path / "runs/tested", task="test")
    (tmp_path / "runs/predicted").mkdir()
    (tmp_path / "runs/predicted/results.json").write_text('{"task": "predict", "data": {}}')
    return tmp_path / "runs"


def test_trained_runs_are_compared_on_a_page_and_as_csv_the_best_by_validation_first(runs):
    process = train(runs.parent, "task=report", "runs=runs")
    assert process.returncode == 0, process.stderr
    rows = rows_of(process.stdout)
    assert [row["run"] for row in rows] == ["runs/deep/b", "runs/a0", "runs/a1"]
    assert [row["optimizer.lr"] for row in rows] == ["0.1", "0.001", "0.001"]
    assert rows_of((runs / "comparison.csv").read_text()) == rows
    assert "3 runs" in (runs / "comparison.html").read_text()
    assert [path.name for path in runs.parent.iterdir()] == ["runs"]  # a comparison makes no run directory
    some = train(runs.parent, "task=report", "runs=runs/*0")
    assert [row["run"] for row in rows_of(some.stdout)] == ["runs/a0"]


def test_the_page_of_a_single_run_is_drawn_anew(runs):
    process = train(runs.parent, "task=report", f"runs={runs / 'a0'}")
    assert process.returncode == 0, process.stderr
    assert [row["run"] for row in rows_of(process.stdout)] == [str(runs / "a0")]
    assert "75.00 %" in (runs / "a0/report.html").read_text()
    assert not (runs / "a0/comparison.html").exists()


@pytest.mark.parametrize(("place", "message"), [("nowhere", "no runs there"), ("runs/predicted", "no trained runs")])
def test_a_place_without_trained_runs_is_refused(runs, place, message):
    process = train(runs.parent, "task=report", f"runs={place}")
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: runs={place}: {message}")


def test_the_table_in_the_terminal_has_what_differs(tmp_path):
    for seed in (0, 1):
        a_run(tmp_path / f"a{seed}", 0.8, seed=seed)
    a_run(tmp_path / "b", 0.9, configured=config(optimizer__lr=0.1))
    (one,) = compare([RunView.read(run) for run in sorted(tmp_path.iterdir())])
    console = Console(record=True, width=300, file=io.StringIO())
    console.print(report.table(one))
    text = console.export_text()
    assert "lr" in text.splitlines()[0]
    assert "0.9000" in text.splitlines()[1]
    assert "a0, 2 runs" in text


def test_the_table_stays_whole_at_80_columns(tmp_path):
    folder = tmp_path / "outputs/runs" / ("a-very-long-name-of-a-folder" * 3)
    for number in range(3):
        differing = {"optimizer__lr": 0.1**number, "trainer__max_epochs": number, "data__batch_size": 10**number}
        a_run(folder / f"2026-11-21_10-00-0{number}-abc12{number}", 0.8, configured=config(**differing))
    (one,) = compare([RunView.read(run) for run in sorted(folder.iterdir())])
    console = Console(record=True, width=80, file=io.StringIO())
    console.print(report.table(one))
    lines = console.export_text().splitlines()
    assert sorted(line.split()[-1] for line in lines[1:]) == ["abc120", "abc121", "abc122"]
