"""Two hosts on this machine: network namespaces with a name and an address each, joined by a cable.

Needs root and iproute2.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from helpers.command import NO_NETWORK, TRAIN

ENTER = 'hostname "$1" && mount --bind "$2" /etc/hosts && shift 2 && exec "$@"'


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
    return done.stdout


def missing() -> str | None:
    """Why there can be no such hosts here."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    made = subprocess.run(["ip", "netns", "add", "sv-probe"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "delete", "sv-probe"], capture_output=True)
    return made.stderr.strip() or None


class Host:
    """``folder``: the working directory of what is started on it; nobody else's."""

    def __init__(self, name: str, address: str, folder: Path) -> None:
        self.name, self.address, self.folder = name, address, folder
        folder.mkdir(exist_ok=True)

    def train(self, *overrides: str, torchrun: tuple[str, ...]) -> "subprocess.Popen[bytes]":
        """Start ``torchrun train.py``; its output goes to out.txt."""
        environment = {**os.environ, **NO_NETWORK, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "eth0"}
        command = [sys.executable, "-m", "torch.distributed.run", *torchrun, str(TRAIN), "device=cpu", *overrides]
        with (self.folder / "out.txt").open("ab") as out:
            return subprocess.Popen(  # each program becomes the next one, so this is torchrun
                ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", ENTER, "sh", self.name,
                 self.folder.parent / "hosts", *command],
                cwd=self.folder, env=environment, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def printed(self) -> str:
        return (self.folder / "out.txt").read_text()

    @property
    def exists(self) -> bool:
        return Path(f"/run/netns/{self.name}").exists()

    def processes(self) -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", self.name).split()]

    def cut(self) -> None:
        """Pull the cable out."""
        ip("-netns", self.name, "link", "set", "eth0", "down")

    def join(self) -> None:
        ip("-netns", self.name, "link", "set", "eth0", "up")

    def lose(self) -> None:
        """The whole host is gone; the other hears nothing of it any more."""
        self.cut()
        self.remove()

    def remove(self) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        ip("netns", "delete", self.name)


@contextmanager
def two_hosts(folder: Path) -> Iterator[tuple[Host, Host]]:
    name = f"sv-{os.getpid()}"
    hosts = Host(f"{name}-a", "10.213.0.1", folder / "a"), Host(f"{name}-b", "10.213.0.2", folder / "b")
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{one.address} {one.name}\n" for one in hosts))
    try:
        for host in hosts:
            ip("netns", "add", host.name)
        ip("link", "add", "eth0", "netns", hosts[0].name, "type", "veth", "peer", "eth0", "netns", hosts[1].name)
        for host in hosts:
            ip("-netns", host.name, "address", "add", f"{host.address}/24", "dev", "eth0")
            ip("-netns", host.name, "link", "set", "lo", "up")
            host.join()
        yield hosts
    finally:
        for host in hosts:
            if host.exists:
                host.remove()
