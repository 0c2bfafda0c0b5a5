"""A sweep whose runs are each in two processes.

`pytest tests/cluster/test_sweep_processes.py --cluster -n 0`
"""

import signal
import subprocess
from pathlib import Path

import pytest
from helpers.command import TINY, start, train, wait_until
from helpers.comparison import same_end, same_files

RUN = (*TINY, "device=cpu", "trainer.devices=2", "trainer.max_epochs=4", "checkpoint.every_n_steps=3")
SWEEP = ("-m", *RUN, "optimizer.lr=0.01,0.001", "sweep.workers=1", "sweep.pruner=median", "hydra.sweep.dir=s")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}


@pytest.fixture(autouse=True)
def _only_with_cluster(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--cluster"):
        pytest.skip("several processes are started with --cluster")


def processes_in(folder: Path) -> list[str]:
    found = subprocess.run(["pgrep", "--full", "smallvision.cli|spawn_main"], capture_output=True, text=True).stdout
    return [pid for pid in found.split() if Path(f"/proc/{pid}/cwd").resolve() == folder.resolve()]


def test_a_sweep_of_runs_in_two_processes_is_stopped_and_continued_and_gives_their_metrics(tmp_path: Path) -> None:
    process = start(tmp_path, *SWEEP, **ONE_THREAD)
    assert wait_until((tmp_path / "s/0/metrics.csv").is_file, process), process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, (out, err)
    assert processes_in(tmp_path) == []
    process = start(tmp_path, *SWEEP, **ONE_THREAD)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, (out, err)
    for number, rate in enumerate(("0.01", "0.001")):
        alone = train(
            tmp_path, *RUN, "test=false", f"optimizer.lr={rate}", f"hydra.run.dir=alone{number}", **ONE_THREAD
        )
        assert alone.returncode == 0, alone.stderr
        assert same_end(tmp_path / f"alone{number}", tmp_path / f"s/{number}")
        assert same_files(tmp_path / f"alone{number}", tmp_path / f"s/{number}")
