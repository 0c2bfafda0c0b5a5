"""Run directories are found and read, whatever lies in them."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.run_files import a_run, results

from smallvision.core.errors import UserError
from smallvision.reports.run_view import RunView, find_runs, flatten, task_of


def a_results_file(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "results.json").write_text(json.dumps(results()))
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("x1", "x2", "b/c", "b/d/e"):
        a_results_file(folder / name)
    (folder / "file").write_text("x")
    return folder


def test_runs_are_found_at_any_depth(runs):
    assert find_runs(str(runs)) == [runs / name for name in ("b/c", "b/d/e", "x1", "x2")]


def test_one_run_is_found_by_its_own_directory(runs):
    assert find_runs(str(runs / "x1")) == find_runs(str(runs / "x1/results.json")) == [runs / "x1"]


@pytest.mark.parametrize("pattern", ["x*", "**/x*", "x?", "[x]*", "x*/results.json"])
def test_runs_are_found_by_a_pattern(runs, pattern):
    assert find_runs(str(runs / pattern)) == [runs / "x1", runs / "x2"]


def test_a_run_that_a_pattern_matches_twice_counts_once(runs):
    assert find_runs(str(runs / "x1/**")) == [runs / "x1"]


def test_each_of_several_places_must_have_runs(runs):
    with pytest.raises(UserError, match="nope: no runs there"):
        find_runs([str(runs / "x1"), str(runs / "nope")])


@pytest.mark.parametrize("place", ["", "nope", "no*pe", "a" * 300, "file", "[", "~nobody"])
def test_a_place_without_runs_is_refused(tmp_path, runs, place):
    with pytest.raises(UserError, match="no runs there"):
        find_runs(str((runs if place == "file" else tmp_path) / place))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"task": 3}', "[" * 100_000, b"\xff\xfe"], ids=lambda text: repr(text[:12])
)
def test_a_damaged_results_file_has_no_task(tmp_path, text):
    (tmp_path / "results.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert task_of(tmp_path) is None
    with pytest.raises(UserError, match=r"results\.json: not a run's results"):
        RunView.read(tmp_path)


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml", "environment.json", "metrics.csv", "report.npz"])
@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b"[[[[", b"- 3\n- {a: 1}\n", b"a,b\n1,2\n", None])
def test_a_file_that_is_missing_or_damaged_is_left_out(tmp_path, name, text):
    run = a_run(tmp_path / "run")
    (run / name).unlink() if text is None else (run / name).write_bytes(text)
    view = RunView.read(run)
    parts = {
        "config.yaml": view.config, "overrides.yaml": view.overrides, "environment.json": view.environment,
        "metrics.csv": view.rows, "report.npz": view.class_names,
    }  # fmt: skip
    assert {file for file, content in parts.items() if not content} == {name}


@pytest.mark.parametrize(
    "change",
    [
        {"test_labels": np.array([0, 1, 99] * 66 + [0, 1], np.int32)},
        {"test_labels": np.zeros(3, np.int32)},
        {"test_probabilities": np.full((200, 3), np.nan, np.float32)},
        {"test_probabilities": np.zeros((200, 7), np.float32)},
        {"mistake_index": np.array([-1])},
        {"mistakes": np.zeros((50, 8, 8), np.uint8)},
        {"samples": np.zeros((5, 8, 8, 1), np.float32)},
        {"other": np.zeros(3)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_arrays_that_do_not_fit_together_are_left_out(tmp_path, change):
    run = a_run(tmp_path / "run")
    np.savez_compressed(run / "report.npz", **dict(np.load(run / "report.npz")) | change)
    assert RunView.read(run).class_names == []
    assert RunView.read(run).evaluation is None


def test_arrays_that_would_fill_the_memory_are_left_out(tmp_path, monkeypatch):
    run = a_run(tmp_path / "run")
    monkeypatch.setattr("smallvision.reports.run_view.MAX_BYTES", 1000)
    assert RunView.read(run).class_names == []


def test_pickles_are_not_loaded(tmp_path):
    run = a_run(tmp_path / "run")
    np.savez_compressed(run / "report.npz", classes=np.array([{"a": 1}], dtype=object))
    assert RunView.read(run).class_names == []


def test_a_column_has_no_values_that_are_missing_or_not_finite(tmp_path):
    run = a_run(tmp_path / "run")
    (run / "metrics.csv").write_text("epoch,lr\n1,0.5\n2,\n3,nan\nnan,1\n5,inf\n6,0.25\n")
    assert RunView.read(run).column("lr") == {1: 0.5, 6: 0.25}
    assert RunView.read(run).column("val/acc") == {}


def test_a_config_is_flattened_to_full_keys():
    assert flatten({"a": {"b": {"c": 1}, "d": []}, "e": {}}) == {"a.b.c": 1, "a.d": [], "e": {}}
