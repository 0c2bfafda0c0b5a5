"""Sweeps on a real Ray cluster of two nodes: whatever happens to a task, each run ends once and with the same metrics.

`pytest tests/cluster/test_ray.py --cluster -n 1`, with `pip install "ray[client]"`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.command import TRAIN, results
from helpers.comparison import same_files
from helpers.ray import Ray, cluster, missing, processes, wait_until
from helpers.sweep_plans import SMALL

from smallvision.sweeps.collect import read_sweep

SWEPT = (*SMALL, "data.images=2000", "trainer.max_epochs=24", "checkpoint.every_n_steps=10", "optimizer.lr=0.01,0.001",
         "hydra.sweep.dir=s")  # fmt: skip


@pytest.fixture(scope="module")
def ray(request: pytest.FixtureRequest) -> Iterator[Ray]:
    if not request.config.getoption("--cluster"):
        pytest.skip("a real Ray cluster is started with --cluster")
    assert not missing(), f"not installed: {', '.join(missing())}"
    with cluster() as found:
        yield found


def start(ray: Ray, folder: Path, *overrides: str) -> subprocess.Popen[str]:
    with (folder / "out.txt").open("ab") as out:
        return subprocess.Popen(
            [sys.executable, str(TRAIN), "-m", *SWEPT, *overrides],
            cwd=folder, env=ray.environment, stdout=out, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip


def on(ray: Ray) -> tuple[str, ...]:
    return "sweep.launcher=ray", f"sweep.address={ray.address}"


@pytest.fixture(scope="module")
def local(ray: Ray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("local")
    assert start(ray, folder, "sweep.workers=2").wait() == 0, (folder / "out.txt").read_text()
    return folder / "s"


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], folder: Path) -> None:
    while not condition():
        assert process.poll() is None, (folder / "out.txt").read_text()
        time.sleep(0.05)


def both_saved(folder: Path) -> bool:
    return len([*folder.glob("s/*/checkpoints/last.ckpt")]) == 2


def assert_same(folder: Path, local: Path) -> None:
    found = read_sweep(folder / "s")
    assert [trial.state for trial in found.trials] == ["done", "done"], (folder / "out.txt").read_text()
    for number in (0, 1):
        assert same_files(local / f"{number}", folder / "s" / f"{number}")


def kill_worker(ray: Ray, process: subprocess.Popen[str]) -> None:
    os.kill(ray.runs(3)[0], signal.SIGKILL)


def kill_node(ray: Ray, process: subprocess.Popen[str]) -> None:
    ray.kill(3)


def kill_parent(ray: Ray, process: subprocess.Popen[str]) -> None:
    process.kill()


def ctrl_c(ray: Ray, process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGINT)


@pytest.mark.parametrize("happens", [kill_worker, kill_node, kill_parent, ctrl_c])
def test_whatever_happens_to_a_task_each_run_ends_as_on_this_machine(ray, local, tmp_path, happens):
    process = start(ray, tmp_path, *on(ray))
    wait_for(lambda: ray.runs(2) and ray.runs(3) and both_saved(tmp_path), process, tmp_path)
    happens(ray, process)
    code = process.wait()
    output = (tmp_path / "out.txt").read_text()
    assert code == {kill_parent: -signal.SIGKILL, ctrl_c: 130}.get(happens, 0), output
    if happens in (kill_worker, kill_node):
        assert output.count("goes on") == 1, output
        assert "aylet" not in output
    if happens is ctrl_c:
        assert [trial.state for trial in read_sweep(tmp_path / "s").trials] == ["interrupted"] * 2, output
        wait_until(ray.is_idle)
    if code != 0:
        assert start(ray, tmp_path, *on(ray)).wait() == 0, (tmp_path / "out.txt").read_text()
    assert_same(tmp_path, local)
    wait_until(ray.is_idle)
    if happens is kill_node:
        ray.start(3)


def test_a_killed_parent_outside_the_cluster_is_followed_by_the_same_command(ray, local, tmp_path):
    """Where Ray lets the runs of the first go on for half a minute."""
    client = "sweep.launcher=ray", f"sweep.address={ray.client_address}"
    process = start(ray, tmp_path, *client)
    wait_for(lambda: both_saved(tmp_path), process, tmp_path)
    process.kill()
    process.wait()
    assert start(ray, tmp_path, *client).wait() == 0, (tmp_path / "out.txt").read_text()
    assert_same(tmp_path, local)


def test_a_ray_that_is_started_here_ends_with_a_killed_parent(ray, tmp_path):
    before = raylets()
    process = start(ray, tmp_path, "sweep.launcher=ray", "sweep.workers=2", "+sweep.resources.num_cpus=0.1")
    wait_for(lambda: both_saved(tmp_path), process, tmp_path)
    assert len(raylets() - before) == 1
    process.kill()
    process.wait()
    wait_until(lambda: raylets() == before and ray.is_idle())


def raylets() -> set[int]:
    return {pid for pid, _, command in processes() if "/raylet/raylet " in command}


def test_a_pruner_ends_runs_early(ray, tmp_path):
    pruner = "sweep.pruner=threshold", "+sweep.pruner_options.lower=2.0", "trainer.max_epochs=500"
    process = start(ray, tmp_path, *on(ray), *pruner)
    assert process.wait() == 0, (tmp_path / "out.txt").read_text()
    assert [trial.state for trial in read_sweep(tmp_path / "s").trials] == ["pruned"] * 2
    assert all(results(tmp_path / "s" / f"{number}")["epochs"] < 500 for number in (0, 1))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sweep.address=127.0.0.1:1", "sweep.address=127.0.0.1:1: "),
        ("+sweep.resources.num_gpus=1", "no node of the Ray cluster has that"),
        ("+sweep.resources.cpus=1", "sweep.resources: Invalid option keyword cpus"),
    ],
)
def test_what_the_cluster_cannot_do_is_refused_in_one_line(ray, tmp_path, override, message):
    process = start(ray, tmp_path, *on(ray), override)
    assert_refused(process, tmp_path, message)


def test_a_node_that_does_not_see_the_directory_is_named(ray, tmp_path):
    hide = ("unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {tmp_path} && exec "$@"', "sh")
    ray.start(4, '--resources={"hidden": 1}', prefix=hide)
    process = start(ray, tmp_path, *on(ray), "+sweep.resources.resources.hidden=1")
    assert_refused(process, tmp_path, f"node 127.0.0.4 does not see {tmp_path}")
    ray.kill(4)


def assert_refused(process: subprocess.Popen[str], folder: Path, message: str) -> None:
    code, output = process.wait(), (folder / "out.txt").read_text()
    assert code == 2, output
    (line,) = [line for line in output.splitlines() if not line.startswith(("smallvision:", "  "))]
    assert line.startswith("error: ")
    assert message in line
