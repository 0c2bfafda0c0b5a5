"""results.json: what is written is what is read."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from helpers.run_files import DATA, results

from smallvision.core.errors import UserError
from smallvision.core.results import METRICS, DataResults, EpochSeconds, ModelResults, Results, Seconds
from smallvision.core.run_dir import RunDir

MINIMAL: dict[str, Any] = {
    "status": "completed",
    "task": "fit",
    "seed": 0,
    "device": "cpu",
    "precision": "32",
    "data": {"name": "mnist", "source": "a test", "fingerprint": "0123"},
    "model": {"name": "linear", "parameters": 30},
    "optimizer": "adam",
}


def a_result(**changes: Any) -> Results:
    fields = MINIMAL | {"data": DataResults(**DATA), "model": ModelResults("linear", 30)} | changes
    return Results(**fields)


def in_file(directory: Path, content: str | bytes) -> Path:
    path = directory / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_what_is_written_is_read(tmp_path):
    seconds = Seconds(3.0, 2.0, 0.1, [EpochSeconds(0.8, 0.1, 0.05)], compile=12.5)
    written = a_result(
        metrics={"val/acc": 0.5}, seconds=seconds, reason="the disk is full", best_epoch=3, unsaved=["last.ckpt"]
    )
    written.write(RunDir(tmp_path, []))
    assert Results.read(tmp_path / "results.json") == written


def test_keys_stand_in_the_order_of_the_schema_and_a_tasks_own_keys_at_the_end(tmp_path):
    a_result(extra={"bench": {"speed": 1}}).write(RunDir(tmp_path, []))
    tree = json.loads((tmp_path / "results.json").read_text())
    head = "status task seed device precision data model optimizer epochs steps metrics best_checkpoint seconds"
    assert list(tree)[:13] == head.split()
    assert list(tree)[-1] == "bench"
    assert "extra" not in tree
    assert tuple(tree["metrics"]) == METRICS


def test_optional_keys_may_be_missing_and_unknown_keys_are_ignored(tmp_path):
    read = Results.read(in_file(tmp_path, json.dumps(MINIMAL | {"bench": [1, 2], "extra": {"a": 1}})))
    assert read.metrics == dict.fromkeys(METRICS)
    assert (read.seconds, read.tested, read.unsaved, read.extra) == (Seconds(), 0, [], {})


def test_numbers_that_are_not_finite_are_read_as_nan(tmp_path):
    read = Results.read(in_file(tmp_path, json.dumps(results() | {"images_per_second": math.inf})))
    assert read.images_per_second is not None
    assert math.isnan(read.images_per_second)
    assert math.isnan(Results.read(in_file(tmp_path, json.dumps(results(math.nan)))).metrics["val/acc"] or 0)


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", "null", '"x"', "{}", '{"data": 3, "metrics": {}}', "[" * 100_000, b"\xff\xfe\x00"],
    ids=lambda content: repr(content[:20]),
)
def test_a_file_that_no_run_wrote_is_refused_by_name(tmp_path, content):
    with pytest.raises(UserError, match=r"results\.json: not a run's results"):
        Results.read(in_file(tmp_path, content))


@pytest.mark.parametrize(
    "change",
    [{"seed": "x"}, {"seed": True}, {"epochs": -1}, {"steps": 10**30}, {"data": []}, {"status": None}, {"status": 3},
     {"metrics": {"test/acc": "1"}}, {"metrics": {"val/acc": [1]}}, {"metrics": {"val/acc": 10**400}},
     {"tested": 1.5}, {"seconds": {"epochs": [{"train": 1}]}}, {"model": {"name": "x"}}, {"model": None},
     {"images_per_second": "fast"}, {"unsaved": [1]}, {"data": DATA | {"remark": 3}}],
    ids=str,
)  # fmt: skip
def test_a_value_of_a_wrong_type_is_refused_by_the_files_name(tmp_path, change):
    with pytest.raises(UserError, match=r"results\.json: not a run's results"):
        Results.read(in_file(tmp_path, json.dumps(results() | change)))


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(UserError, match=r"results\.json: not a run's results"):
        Results.read(tmp_path / "results.json")
