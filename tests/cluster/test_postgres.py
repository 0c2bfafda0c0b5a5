"""Sweeps of several machines on one PostgreSQL: parents with host names of their own that share nothing else.

`pytest tests/cluster/test_postgres.py --cluster -n 0`, as root, with Debian's postgresql and with psycopg.
"""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from helpers.command import NO_NETWORK, TRAIN, wait_until
from helpers.comparison import same_files
from helpers.postgres import PASSWORD, Postgres, missing, server
from helpers.sweep_plans import SMALL

from smallvision.reports.sweep_view import SweepView
from smallvision.sweeps.collect import read_sweep

HOSTS = ("alpha", "beta", "gamma")
RATES = ",".join(f"0.0{number:02}" for number in range(1, 13))
SPACES = {
    "grid": [f"optimizer.lr={RATES}"],
    "random": ["sweep=random", "sweep.trials=12", "optimizer.lr=tag(log,interval(1e-4,1e-1))"],
    "tpe": ["sweep=tpe", "sweep.trials=12", "optimizer.lr=tag(log,interval(1e-4,1e-1))"],
}
LONG = ("data.images=2000", "trainer.max_epochs=12", "checkpoint.every_n_steps=10", "optimizer.lr=0.01,0.001")


@pytest.fixture(scope="module")
def postgres(request: pytest.FixtureRequest) -> Iterator[Postgres]:
    if not request.config.getoption("--cluster"):
        pytest.skip("a real PostgreSQL is started with --cluster")
    assert not missing(), f"not installed: {', '.join(missing())}"
    with server() as started:
        yield started


class Parent:
    """A sweep on a machine named ``host``, in a folder of that name."""

    started: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, postgres: Postgres, folder: Path, host: str, *overrides: str, **environment: str) -> None:
        self.folder = folder / host
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "out.txt").open("ab") as out:
            self.process = subprocess.Popen(
                ["unshare", "--uts", "sh", "-c", f'hostname {host}; exec "$@"', "-", sys.executable, str(TRAIN), "-m",
                 *SMALL, f"sweep.storage={postgres.address}", f"sweep.name={folder.name}", *overrides],
                cwd=self.folder, env={**postgres.environment, **NO_NETWORK, "OMP_NUM_THREADS": "1", **environment},
                stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        self.started.append(self.process)

    @property
    def output(self) -> str:
        return (self.folder / "out.txt").read_text()

    def succeeds(self) -> bool:
        return self.process.wait() == 0 or pytest.fail(self.output)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        assert wait_until(condition, self.process), self.output


@pytest.fixture(autouse=True)
def no_parent_is_left() -> Iterator[None]:
    yield
    while Parent.started:
        Parent.started.pop().kill()


@pytest.fixture
def sweep(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], SweepView]:
    """Reads the sweep of a directory."""
    monkeypatch.setenv("PGPASSWORD", PASSWORD)
    return lambda directory: read_sweep(directory, postgres.address)


def finished_runs(folder: Path) -> list[int]:
    """Numbers of the runs that ended on any machine."""
    return sorted(int(file.parent.name) for file in folder.glob("*/outputs/sweeps/*/*/results.json"))


@pytest.mark.parametrize("method", SPACES)
def test_three_parents_that_start_together_run_each_trial_once(postgres, sweep, tmp_path, method):
    parents = [Parent(postgres, tmp_path, host, *SPACES[method], "trainer.max_epochs=1") for host in HOSTS]
    assert all(parent.succeeds() for parent in parents)
    assert finished_runs(tmp_path) == [*range(12)]
    tables = []
    for parent in parents:
        directory = parent.folder / "outputs/sweeps" / tmp_path.name
        view = sweep(directory)
        assert [trial.state for trial in view.trials] == ["done"] * 12
        assert len({trial.params["optimizer.lr"] for trial in view.trials}) == 12
        tables.append({trial.number: trial.host for trial in view.trials})
        own = {int(file.parent.name) for file in directory.glob("*/results.json")}
        assert own == {number for number, host in tables[-1].items() if host == parent.folder.name}
        assert all(host in (directory / "sweep.html").read_text() for host in tables[-1].values())
        assert all(host in (directory / "leaderboard.csv").read_text() for host in tables[-1].values())
    assert tables[0] == tables[1] == tables[2]


def test_all_parents_wait_for_a_server_that_was_stopped(postgres, sweep, tmp_path):
    parents = [Parent(postgres, tmp_path, host, *SPACES["random"]) for host in HOSTS]
    for parent in parents:
        parent.wait_until(lambda: len(finished_runs(tmp_path)) >= 3)
    with postgres.stopped():
        for parent in parents:
            parent.wait_until(lambda parent=parent: "waiting for it" in parent.output)
    assert all(parent.succeeds() for parent in parents)
    assert finished_runs(tmp_path) == [*range(12)]
    assert [parent.output.count("cannot be reached") for parent in parents] == [1, 1, 1]


def test_a_parent_that_waits_for_the_server_is_interrupted_with_its_run_saved(postgres, tmp_path):
    parent = Parent(postgres, tmp_path, "alpha", *LONG, "trainer.max_epochs=200")
    run = parent.folder / "outputs/sweeps" / tmp_path.name / "0"
    parent.wait_until((run / "checkpoints/last.ckpt").is_file)
    with postgres.stopped():
        parent.wait_until(lambda: "waiting for it" in parent.output)
        parent.process.send_signal(signal.SIGINT)
        assert parent.process.wait() == 130, parent.output
        assert '"interrupted"' in (run / "results.json").read_text()


@pytest.mark.parametrize("shared", [True, False])
def test_the_trials_of_a_dead_parent_are_adopted_once(postgres, sweep, tmp_path, shared):
    """From their checkpoint where the directory is shared, else from the start."""
    place = [f"hydra.sweep.dir={tmp_path}/shared"] if shared else []
    overrides = [*LONG, *place]
    dead = Parent(postgres, tmp_path, "alpha", *overrides)
    directory = tmp_path / "shared" if shared else dead.folder / "outputs/sweeps" / tmp_path.name
    dead.wait_until((directory / "0/checkpoints/last.ckpt").is_file)
    dead.process.kill()
    dead.process.wait()
    postgres.execute("UPDATE trial_heartbeats SET heartbeat = heartbeat - INTERVAL '11 minutes'")  # adopted after 10
    others = [Parent(postgres, tmp_path, host, *overrides) for host in HOSTS[1:]]
    assert all(other.succeeds() for other in others)
    directories = [directory] if shared else [one.folder / "outputs/sweeps" / tmp_path.name for one in others]
    view = sweep(directories[0])
    assert [(trial.state, trial.host == "alpha") for trial in view.trials] == [("done", False)] * 2
    if not shared:  # what the dead parent left is not the run of any trial
        left = sweep(dead.folder / "outputs/sweeps" / tmp_path.name)
        assert (left.directory / "0").is_dir()
        assert [(trial.state, trial.runs) for trial in left.trials] == [("done", {})] * 2
    runs = [run for one in directories for run in (one / "0", one / "1") if (run / "results.json").is_file()]
    assert sorted(run.name for run in runs) == ["0", "1"]
    assert sum("trial 0, seed 0" in log.read_text() for log in tmp_path.glob("**/logs/*.log")) == 2
    alone = Parent(postgres, tmp_path, "alone", *LONG, "sweep.name=alone", f"sweep.storage=sqlite:///{tmp_path}/db")
    assert alone.succeeds()
    assert all(same_files(alone.folder / "outputs/sweeps/alone" / run.name, run) for run in runs)


def test_a_password_is_never_written_or_printed(postgres, tmp_path):
    storage = f"sweep.storage={postgres.address_with_password}"
    parent = Parent(postgres, tmp_path, "alpha", "optimizer.lr=0.01", storage, PGPASSWORD="")
    assert parent.succeeds()
    refused = Parent(postgres, tmp_path, "beta", "optimizer.lr=0.01", storage.replace("127.0.0.1:", "127.0.0.1:1"))
    assert refused.process.wait() == 2
    assert "error: sweep.storage=postgresql://sweeper:***@127.0.0.1" in refused.output
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) > 10
    assert [file for file in files if PASSWORD.encode() in file.read_bytes()] == []
