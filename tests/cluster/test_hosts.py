"""One run on two hosts: whatever happens to one of them, it ends or goes on as the docs say, and leaves the same bits.

`pytest tests/cluster/test_hosts.py --cluster -n 0`, as root, with iproute2.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import TINY, wait_until
from helpers.comparison import same_end, same_files
from helpers.hosts import Host, missing, two_hosts

RUN = (*TINY, "data.images=5000", "trainer.max_epochs=6", "checkpoint.every_n_steps=7", "checkpoint.keep=1",
       "hydra.run.dir=run")  # fmt: skip
LOST = "error: another process of this run was lost"


@pytest.fixture(autouse=True, scope="module")
def _only_with_cluster(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--cluster"):
        pytest.skip("two hosts are made with --cluster")
    assert missing() is None, missing()


class Pair:
    """One run on two hosts, started by torchrun on each."""

    def __init__(self, hosts: tuple[Host, Host], *overrides: str) -> None:
        self.hosts, (self.first, self.second) = hosts, hosts
        torchrun = ("--nnodes=2", "--nproc-per-node=1", "--rdzv-backend=c10d",
                    f"--rdzv-endpoint={self.first.name}:29500")  # fmt: skip
        self.launchers = [host.train(*overrides, torchrun=torchrun) for host in hosts]
        self.run_dir = self.first.folder / "run"

    @property
    def printed(self) -> str:
        return "".join(f"{host.name}:\n{host.printed}\n" for host in self.hosts)

    def wait_for_epoch(self) -> None:
        for launcher in self.launchers:
            assert wait_until((self.run_dir / "metrics.csv").is_file, launcher), self.printed

    def worker(self, number: int) -> int:
        """The process of the run on that host."""
        (pid,) = (pid for pid in self.hosts[number].processes() if pid != self.launchers[number].pid)
        return pid

    def wait(self) -> list[int]:
        """Exit codes of the launchers; afterwards nothing runs on the hosts any more."""
        codes = [launcher.wait(300) for launcher in self.launchers]
        deadline = time.monotonic() + 60
        while any(host.exists and host.processes() for host in self.hosts):
            assert time.monotonic() < deadline, self.printed
            time.sleep(0.1)
        return codes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    with two_hosts(folder) as hosts:
        pair = Pair(hosts, *RUN)
        assert pair.wait() == [0, 0], pair.printed
    assert {path.name for path in (folder / "b").iterdir()} == {"out.txt"}  # nothing is shared, nothing left there
    return pair.run_dir


# What happens, and how it ends --------------------------------------------------------------------------------


def kill_first(pair: Pair) -> None:
    os.kill(pair.worker(0), signal.SIGKILL)


def kill_second(pair: Pair) -> None:
    os.kill(pair.worker(1), signal.SIGKILL)


def kill_first_launcher(pair: Pair) -> None:
    pair.launchers[0].kill()


def lose_first(pair: Pair) -> None:
    pair.first.lose()
    while pair.second.processes() != [pair.launchers[1].pid]:
        time.sleep(0.1)
    pair.launchers[1].kill()  # torchrun waits for its rendezvous until TCP gives up, a quarter of an hour


def lose_second(pair: Pair) -> None:
    pair.second.lose()


def interrupt_first(pair: Pair) -> None:
    pair.launchers[0].send_signal(signal.SIGINT)


def terminate_second(pair: Pair) -> None:
    pair.launchers[1].send_signal(signal.SIGTERM)


@pytest.mark.parametrize(
    ("happens", "number", "line"),
    [
        (kill_first, 1, LOST),
        (kill_second, 0, LOST),
        (kill_first_launcher, None, "resume=run"),
        (lose_first, 1, LOST),
        (lose_second, 0, LOST),
        (interrupt_first, 0, "all of it saved. To continue"),
        (terminate_second, 0, "all of it saved. To continue"),
    ],
)
def test_what_ends_one_host_ends_both_and_resume_leaves_the_same_bits(undisturbed, tmp_path, happens, number, line):
    with two_hosts(tmp_path) as hosts:
        pair = Pair(hosts, *RUN)
        pair.wait_for_epoch()
        began = time.monotonic()
        happens(pair)
        codes = pair.wait()
        print(f"{happens.__name__}: ended {codes} after {time.monotonic() - began:.1f} s")
        assert all(code in (1, -signal.SIGKILL) for code in codes), pair.printed
        assert line in (pair.printed if number is None else hosts[number].printed), pair.printed
    with two_hosts(tmp_path) as hosts:
        pair = Pair(hosts, "resume=run")
        assert pair.wait() == [0, 0], pair.printed
    assert same_end(pair.run_dir, undisturbed)
    assert same_files(pair.run_dir, undisturbed)


def test_a_cable_that_is_out_for_20_seconds_ends_nothing(undisturbed, tmp_path):
    with two_hosts(tmp_path) as hosts:
        pair = Pair(hosts, *RUN)
        pair.wait_for_epoch()
        pair.second.cut()
        time.sleep(20)
        assert [launcher.poll() for launcher in pair.launchers] == [None, None], pair.printed
        pair.second.join()
        began = time.monotonic()
        assert pair.wait() == [0, 0], pair.printed
        print(f"ended {time.monotonic() - began:.1f} s after the cable was in again")
    assert same_end(pair.run_dir, undisturbed)
    assert same_files(pair.run_dir, undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB where the first host's run goes."""
    folder = tmp_path / "a/run"
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def test_a_full_disk_of_the_first_host_ends_no_training(undisturbed, small_disk, tmp_path):
    with two_hosts(tmp_path) as hosts:
        pair = Pair(hosts, *RUN)
        pair.wait_for_epoch()
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(3_000_000))
        # results.json could not be written, after the last epoch; the second host has nothing to complain of, but its
        # torchrun may have, once the first's is gone.
        assert pair.wait()[0] == 1, pair.printed
        assert "could not save run/checkpoints/last.ckpt: No space left on device; training goes on" in pair.printed
        assert " 6/6 " in pair.printed
        assert pair.printed.count("error: run/results.json: cannot be written: No space left on device;") == 1
    filler.unlink()
    with two_hosts(tmp_path) as hosts:
        pair = Pair(hosts, "resume=run")
        assert pair.wait() == [0, 0], pair.printed
    assert same_end(pair.run_dir, undisturbed)
    assert same_files(pair.run_dir, undisturbed)
