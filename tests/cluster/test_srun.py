"""One run in several processes that Slurm has started, on a real Slurm of two nodes.

`pytest tests/cluster/test_srun.py --cluster -n 0`, as root, with Debian's slurmctld, slurmd, slurm-client and munge.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import NO_NETWORK, TINY, TRAIN, results, wait_until
from helpers.comparison import same_files
from helpers.slurm import Slurm, cluster, missing

PROGRAM = (sys.executable, str(TRAIN), "device=cpu", *TINY)
LONG = ("data.images=7000", "trainer.max_epochs=2000", "checkpoint.every_n_steps=20")
SCRIPT = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1
srun {program}
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Slurm]:
    if not request.config.getoption("--cluster"):
        pytest.skip("a real Slurm is started with --cluster")
    assert not missing(), f"not installed: {', '.join(missing())}"
    with cluster(tmp_path_factory.mktemp("slurm")) as found:
        found.environment |= {**NO_NETWORK, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        yield found


def start(slurm: Slurm, folder: Path, *command: str) -> "subprocess.Popen[bytes]":
    with (folder / "out.txt").open("ab") as out:
        return subprocess.Popen(command, cwd=folder, env=slurm.environment, stdout=out, stderr=subprocess.STDOUT)


def printed(folder: Path) -> str:
    return (folder / "out.txt").read_text()


def wait_for_epoch(folder: Path, process: "subprocess.Popen[bytes]") -> None:
    assert wait_until((folder / "run/metrics.csv").is_file, process), printed(folder)


@pytest.fixture(scope="module")
def on_one_machine(slurm: Slurm, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("one")
    process = start(slurm, folder, *PROGRAM, "trainer.devices=2", "hydra.run.dir=run")
    assert process.wait(300) == 0, printed(folder)
    return folder / "run"


def test_srun_starts_the_processes_of_a_run_on_two_nodes(slurm, on_one_machine, tmp_path):
    process = start(slurm, tmp_path, "srun", "-N2", "-n2", *PROGRAM, "trainer.devices=1", "trainer.num_nodes=2",
                    "hydra.run.dir=run")  # fmt: skip
    assert process.wait(300) == 0, printed(tmp_path)
    assert same_files(on_one_machine, tmp_path / "run")
    assert printed(tmp_path).count("smallvision: training") == 1


def test_a_batch_script_starts_them_too(slurm, on_one_machine, tmp_path):
    (tmp_path / "job.sh").write_text(SCRIPT.format(program=" ".join([*PROGRAM, "hydra.run.dir=run"])))
    process = start(slurm, tmp_path, "sbatch", "--wait", "--output=out.txt", "job.sh")
    assert process.wait(300) == 0, printed(tmp_path)
    assert same_files(on_one_machine, tmp_path / "run")


def test_what_the_first_process_refuses_is_said_once_and_ends_all(slurm, tmp_path):
    process = start(slurm, tmp_path, "srun", "-N2", "-n2", *PROGRAM, "optimizer.lr=-1")
    assert process.wait(300) != 0
    assert printed(tmp_path).count("error: optimizer.lr") == 1, printed(tmp_path)
    process = start(slurm, tmp_path, "srun", "-N2", "-n2", *PROGRAM, "trainer.devices=2", "trainer.num_nodes=2")
    assert process.wait(300) != 0
    assert printed(tmp_path).count("error: trainer.devices=2: with trainer.num_nodes=2 these are 4") == 1


def test_a_cancelled_job_saves_and_its_run_goes_on(slurm, tmp_path):
    process = start(slurm, tmp_path, "srun", "-N2", "-n2", *PROGRAM, *LONG, "hydra.run.dir=run")
    wait_for_epoch(tmp_path, process)
    slurm.run("scancel", slurm.jobs("running")[0])
    assert process.wait(60) != 0
    assert results(tmp_path / "run")["status"] == "interrupted", printed(tmp_path)
    assert "all of it saved. To continue" in printed(tmp_path)
    epochs = results(tmp_path / "run")["epochs"] + 1
    process = start(slurm, tmp_path, "srun", "-N2", "-n2", sys.executable, str(TRAIN), "resume=run",
                    f"trainer.max_epochs={epochs}")  # fmt: skip
    assert process.wait(300) == 0, printed(tmp_path)
    assert results(tmp_path / "run")["epochs"] == epochs
    assert slurm.jobs() == []
