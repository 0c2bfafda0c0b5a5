"""Runs are found and compared."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.run_files import DATA, results

from smallvision.core.errors import UserError
from smallvision.reports import runs
from smallvision.reports.run_view import read


def write(run: Path, accuracy: Any = 0.5, **changes: Any) -> Path:
    run.mkdir(parents=True)
    (run / "results.json").write_text(json.dumps(results(accuracy) | changes))
    return run


def found(place: object) -> list[Path]:
    return runs.find(str(place))


def test_runs_are_found_at_any_depth(tmp_path: Path) -> None:
    made = [write(tmp_path / name) for name in ("a", "b/c", "b/d/e")]
    assert found(tmp_path) == sorted(made)


def test_one_run_is_found_by_its_own_directory(tmp_path: Path) -> None:
    run = write(tmp_path / "a")
    assert found(run) == [run]
    assert found(run / "results.json") == [run]


@pytest.mark.parametrize("pattern", ["x*", "**/x*", "x?", "[x]*", "x*/results.json"])
def test_runs_are_found_by_a_pattern(tmp_path: Path, pattern: str) -> None:
    made = [write(tmp_path / name) for name in ("x1", "x2")]
    write(tmp_path / "other")
    assert found(tmp_path / pattern) == made


def test_a_run_that_is_found_twice_counts_once(tmp_path: Path) -> None:
    run = write(tmp_path / "a")
    assert found(tmp_path / "**") == [run]


@pytest.mark.parametrize("place", ["", "nope", "no*pe", "a" * 300, "file", "[", "~nobody"])
def test_where_there_are_no_runs_the_search_is_refused(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="no runs there"):
        found(tmp_path / place)


def test_a_row_says_what_the_run_was(tmp_path: Path) -> None:
    assert runs.row(read(write(tmp_path / "a"))) == {
        "run": str(tmp_path / "a"), "status": "completed", "data": "mnist", "stand_in_for": None,
        "model": "linear", "optimizer": "adam", "seed": 0, "epochs": 2, "val/acc": 0.5, "test/acc": 0.25,
        "images/s": 1000.5,
    }  # fmt: skip


def test_a_stand_in_is_marked(tmp_path: Path) -> None:
    row = runs.row(read(write(tmp_path / "a", data=DATA | {"name": "digits", "stand_in_for": "mnist"})))
    assert (row["status"], row["stand_in_for"]) == ("completed*", "mnist")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", "null", '"x"', "{}", '{"data": 3, "metrics": {}}', "[" * 100_000,
     '{"data": {}, "metrics": {}}'],
    ids=lambda text: text[:20],
)  # fmt: skip
def test_a_file_that_is_not_a_runs_results_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(UserError, match=r"results\.json"):
        read(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"metrics": {"val/acc": "high", "test/acc": None}},
        {"metrics": {"val/acc": [1], "test/acc": None}},
        {"metrics": {"val/acc": 0.5, "test/acc": {}}},
        {"images_per_second": "fast"},
        {"status": 3},
        {"model": None},
    ],
    ids=str,
)
def test_results_of_a_wrong_type_are_refused_by_name(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"a.results\.json"):
        read(write(tmp_path / "a", **changes))


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"results\.json"):
        read(tmp_path)


def test_the_best_by_validation_comes_first_and_runs_without_a_figure_last(tmp_path: Path) -> None:
    nan = float("nan")
    accuracies = {"a": 0.5, "b": None, "c": 0.9, "d": 0.0, "e": nan, "f": 0.9, "g": 0.7}
    made = [read(write(tmp_path / name, accuracy)) for name, accuracy in accuracies.items()]
    order = [Path(row["run"]).name for row in runs.table(made)]
    assert order == ["c", "f", "g", "a", "d", "b", "e"]
    assert [Path(row["run"]).name for row in runs.table(made[::-1])] == order


def test_the_table_can_be_read_as_csv(tmp_path: Path) -> None:
    made = [write(tmp_path / "a, b", 0.75), write(tmp_path / "c", None)]
    text = runs.as_csv(runs.table([read(run) for run in made]))
    rows = list(csv.DictReader(io.StringIO(text)))
    assert tuple(rows[0]) == runs.COLUMNS
    assert [(row["run"], row["val/acc"]) for row in rows] == [(str(made[0]), "0.75"), (str(made[1]), "")]


def test_a_report_needs_no_torch() -> None:
    code = (
        "import sys; import smallvision.reports.runs, smallvision.reports.run_page;"
        "import smallvision.reports.comparison_page, smallvision.tasks.report;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0
