"""Runs are compared by validation."""

import csv
import io

from helpers.command import TINY
from helpers.forks import train


def test_runs_are_listed_best_by_validation_first(tmp_path):
    swept = train(tmp_path, "-m", *TINY, "optimizer.lr=1e-5,3e-3", "hydra.sweep.dir=sweep")
    assert swept.returncode == 0, swept.stderr
    process = train(tmp_path, "task=report", "runs=sweep")
    assert process.returncode == 0, process.stderr
    rows = list(csv.DictReader(io.StringIO(process.stdout)))
    assert [row["run"] for row in rows] == ["sweep/1", "sweep/0"]
    assert float(rows[0]["val/acc"]) > float(rows[1]["val/acc"])
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}  # a comparison leaves nothing behind
    only = train(tmp_path, "task=report", "runs=sweep/*0")
    assert "sweep/0" in only.stdout
    assert "sweep/1" not in only.stdout


def test_a_folder_without_runs_is_refused(tmp_path):
    process = train(tmp_path, "task=report", "runs=nowhere")
    assert process.returncode == 2
    assert process.stderr.startswith("error: runs=nowhere: no runs there")
