"""What a job does, without a cluster; with one: tests/cluster/test_slurm.py."""

import json
from pathlib import Path

import pytest
from helpers import run_files
from helpers.sweep_plans import make_plan

from smallvision.core.run_dir import RunDir, is_locked
from smallvision.core.system import STOP
from smallvision.sweeps import slurm


def test_a_job_waits_for_another_one_that_is_still_at_work_on_its_run_and_does_not_repeat_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(STOP, "install", list)
    monkeypatch.setattr(STOP, "numbers", STOP.numbers)
    run = make_plan(tmp_path, "optimizer.lr=0.1,0.2").run(0, {"optimizer.lr": "0.1"}, 0)
    run.directory.mkdir(parents=True)
    other = RunDir(run.directory, [])
    other.open()

    def end(seconds: float) -> None:
        other.write(other.results_json, json.dumps(run_files.results()))
        other.close()

    monkeypatch.setattr(slurm.time, "sleep", end)
    assert slurm.execute(run) is None
    assert not is_locked(run.directory)
    assert not (run.directory / "config.yaml").exists()
