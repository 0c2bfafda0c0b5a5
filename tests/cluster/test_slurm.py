"""Sweeps on a real Slurm: whatever happens to a job, each run ends once and with the same metrics.

`pytest tests/cluster --cluster -n 1`, as root, with Debian's slurmctld, slurmd, slurm-client and munge.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import NO_NETWORK, TRAIN, wait_until
from helpers.comparison import same_files
from helpers.slurm import Slurm, cluster, missing
from helpers.sweep_plans import SMALL

from smallvision.sweeps.collect import read_sweep

SWEPT = (*SMALL, "data.images=2000", "trainer.max_epochs=12", "checkpoint.every_n_steps=10", "optimizer.lr=0.01,0.001",
         "sweep.launcher=slurm", "+sweep.launcher_options.timeout_min=20",
         "hydra.sweep.dir=s")  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Slurm]:
    if not request.config.getoption("--cluster"):
        pytest.skip("a real Slurm is started with --cluster")
    assert not missing(), f"not installed: {', '.join(missing())}"
    with cluster(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def start(slurm: Slurm, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    with (folder / "out.txt").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, str(TRAIN), "-m", *SWEPT, *overrides],
            cwd=folder, env={**slurm.environment, **NO_NETWORK, "OMP_NUM_THREADS": "1"},
            stdout=out, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert start(slurm, folder).wait() == 0, (folder / "out.txt").read_text()
    return folder / "s"


def assert_same(folder: Path, undisturbed: Path) -> None:
    found = read_sweep(folder / "s")
    assert [trial.state for trial in found.trials] == ["done", "done"], (folder / "out.txt").read_text()
    for number in (0, 1):
        assert same_files(undisturbed / f"{number}", folder / "s" / f"{number}")


def cancel(slurm: Slurm, process: subprocess.Popen[str]) -> None:
    slurm.run("scancel", slurm.jobs("running")[0])


def requeue(slurm: Slurm, process: subprocess.Popen[str]) -> None:
    slurm.run("scontrol", "requeue", slurm.jobs("running")[0])


def preempt(slurm: Slurm, process: subprocess.Popen[str]) -> None:
    slurm.run("sbatch", "--partition=urgent", "--output=/dev/null", "--wrap=sleep 3")


def kill_step(slurm: Slurm, process: subprocess.Popen[str]) -> None:
    slurm.run("scancel", "--signal=KILL", slurm.jobs("running")[0])


def kill_parent(slurm: Slurm, process: subprocess.Popen[str]) -> None:
    process.kill()


def ctrl_c(slurm: Slurm, process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)


def kill_node(slurm: Slurm, process: subprocess.Popen[str]) -> None:
    slurm.kill_node("n1", steps=True)


def lose_node(slurm: Slurm, process: subprocess.Popen[str]) -> None:
    slurm.kill_node("n1", steps=False)


@pytest.mark.parametrize("happens", [cancel, requeue, preempt, kill_step, kill_node, lose_node, kill_parent, ctrl_c])
def test_whatever_happens_to_a_job_each_run_ends_as_undisturbed(slurm, undisturbed, tmp_path, happens):
    process = start(slurm, tmp_path)
    both_saved = wait_until(lambda: len([*tmp_path.glob("s/*/checkpoints/last.ckpt")]) == 2, process)
    assert both_saved, (tmp_path / "out.txt").read_text()
    happens(slurm, process)
    code = process.wait()
    assert code == {kill_parent: -signal.SIGKILL, ctrl_c: 130}.get(happens, 0), (tmp_path / "out.txt").read_text()
    if happens is ctrl_c:
        assert slurm.jobs("pending,running") == []
    if code != 0:
        assert start(slurm, tmp_path).wait() == 0, (tmp_path / "out.txt").read_text()
    assert_same(tmp_path, undisturbed)
    assert slurm.jobs("pending,running") == []


def test_a_walltime_shorter_than_a_run_is_no_end_of_it(slurm, undisturbed, tmp_path):
    process = start(slurm, tmp_path, "sweep.launcher_options.timeout_min=1",
                    "+sweep.launcher_options.slurm_signal_delay_s=35")  # fmt: skip
    assert process.wait() == 0, (tmp_path / "out.txt").read_text()
    assert_same(tmp_path, undisturbed)


def test_a_partition_that_is_not_there_is_refused_in_one_line(slurm, tmp_path):
    process = start(slurm, tmp_path, "+sweep.launcher_options.slurm_partition=none")
    assert process.wait() == 2
    (line,) = [line for line in (tmp_path / "out.txt").read_text().splitlines() if line.startswith("error:")]
    assert line.startswith("error: sweep.launcher=slurm: ")
    assert "nvalid partition" in line
