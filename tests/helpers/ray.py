"""A Ray cluster of nodes of one CPU each, started by hand on loopback addresses of their own."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from helpers.command import TRAIN, free_ports

OPTIONS = (
    "--num-cpus=1", "--object-store-memory=80000000", "--disable-usage-stats", "--include-log-monitor=false", "--block",
)  # fmt: skip


def missing() -> list[str]:
    """What is not installed."""
    return [name for name in ("ray", "grpc") if find_spec(name) is None]


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.1)


class Ray:
    """``address``: for sweep.address on a node, ``client_address`` from elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        port, client_port = free_ports(2)
        self.address, self.client_address = f"127.0.0.2:{port}", f"ray://127.0.0.2:{client_port}"
        self.head_options = ("--head", f"--port={port}", f"--ray-client-server-port={client_port}",
                             "--include-dashboard=false")  # fmt: skip
        paths = os.pathsep.join([str(TRAIN.parent / "src"), os.environ.get("PYTHONPATH", "")])
        own = {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled",
               "GRPC_ENABLE_FORK_SUPPORT": "0",  # ray-project/ray#63202: else a client's process may die at its start
               "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "600"}  # fmt: skip
        self.environment = {**os.environ, **own}
        self.nodes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, number: int, *options: str, prefix: tuple[str, ...] = ()) -> None:
        """Node 2 is the head; returns when the node takes tasks. ``prefix``: goes before its command."""
        role = self.head_options if number == 2 else (f"--address={self.address}",)
        command = [*prefix, sys.executable, "-m", "ray.scripts.scripts", "start", *role, *OPTIONS, *options,
                   f"--node-ip-address=127.0.0.{number}", f"--temp-dir={self.folder}/{number}"]  # fmt: skip
        log = self.folder / f"node{number}.log"
        with log.open("wb") as output:
            self.nodes[number] = subprocess.Popen(
                command,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        while "Ray runtime started" not in log.read_text():
            assert self.nodes[number].poll() is None, log.read_text()
            time.sleep(0.1)

    def raylet(self, number: int) -> int:
        """The process that makes it a node, and the parent of its workers."""
        socket = f"--raylet_socket_name={self.folder}/{number}/"
        return next(pid for pid, _, command in processes() if "/raylet/raylet " in command and socket in command)

    def runs(self, number: int) -> list[int]:
        """The workers of a node that carry out a run."""
        raylet = self.raylet(number)
        return [pid for pid, parent, command in processes() if parent == raylet and command.startswith("ray::execute")]

    def is_idle(self) -> bool:
        return not any(command.startswith("ray::execute") for _, _, command in processes())

    def kill(self, number: int) -> None:
        """SIGKILL to the raylet; Ray's other processes there end with it."""
        os.kill(self.raylet(number), signal.SIGKILL)
        self.nodes.pop(number).wait()

    def stop(self) -> None:
        for node in reversed(self.nodes.values()):
            node.terminate()
            node.wait()


def processes() -> Iterator[tuple[int, int, str]]:
    """Number, parent and command line of each."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            yield int(folder.name), int(parent), (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()


@contextmanager
def cluster() -> Iterator[Ray]:
    """In a folder of a short name: Ray's sockets there are named by paths of at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as name:
        ray = Ray(Path(name))
        try:
            ray.start(2)
            ray.start(3)
            yield ray
        finally:
            ray.stop()
