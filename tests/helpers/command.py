"""The real command line."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

TRAIN = Path(__file__).parents[2] / "train.py"
# A run of a second on data that need no file: 20 steps an epoch. Its page, a third of the time, is not drawn.
TINY = ("data=shapes", "data.images=700", "data.test_images=200", "data.val_size=60", "trainer.max_epochs=2",
        "report=false")  # fmt: skip
NO_NETWORK = {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}

CHANGING = ("seconds", "images_per_second", "times_tested")

Train = Callable[..., subprocess.CompletedProcess[str]]


def start(cwd: Path, *overrides: str, **env: str) -> subprocess.Popen[str]:
    """``python train.py overrides`` in ``cwd``, without a network and without anybody's data."""
    environment = {key: value for key, value in os.environ.items() if key != "SMALLVISION_DATA"}
    return subprocess.Popen(
        [sys.executable, str(TRAIN), *overrides],
        cwd=cwd,
        env={**environment, **NO_NETWORK, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def train(cwd: Path, *overrides: str, **env: str) -> subprocess.CompletedProcess[str]:
    """The finished process of :func:`start`."""
    process = start(cwd, *overrides, **env)
    out, err = process.communicate(timeout=240)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


class Process(Protocol):
    """What subprocess and :mod:`helpers.forks` start."""

    def poll(self) -> int | None: ...


def succeeds(process: subprocess.CompletedProcess[str]) -> str:
    """Its standard output."""
    assert process.returncode == 0, process.stderr
    return process.stdout


def refusal(process: subprocess.CompletedProcess[str]) -> str:
    """The one line by which it refused."""
    assert process.returncode == 2, process.stdout + process.stderr
    assert process.stderr.startswith("error: ")
    assert process.stderr.count("\n") == 1
    return process.stderr


def wait_until(condition: Callable[[], object], process: Process) -> bool:
    """Wait for a condition; whether the process still ran when it came true."""
    while not condition():
        if process.poll() is not None:
            return False
        time.sleep(0.02)
    return True


def free_ports(count: int) -> list[int]:
    """On loopback."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def results(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "results.json").read_text())


def figures(run_dir: Path) -> dict[str, Any]:
    """What of results.json must be equal whenever the run is done again."""
    return {key: value for key, value in results(run_dir).items() if key not in CHANGING}
