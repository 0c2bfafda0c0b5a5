"""The first signal asks, the second stops; how a process shares the processors; the memory that is left."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from smallvision.core import system
from smallvision.core.errors import Interrupted
from smallvision.core.system import SCHED_SETATTR, SLICE_NANOSECONDS, SPIN_COUNT, StopRequest, available_memory


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    request = StopRequest()
    request.install()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_asked_before_a_signal(stop: StopRequest) -> None:
    assert stop.signal is None


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_is_noted_and_said(stop: StopRequest, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    signal.raise_signal(signal.Signals[name])
    assert stop.signal == name
    out, said = capsys.readouterr()
    assert out == ""
    assert f"{name}: stopping after this step" in said


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(stop: StopRequest, second: signal.Signals) -> None:
    signal.raise_signal(signal.SIGINT)
    stop.received -= 1  # second
    with pytest.raises(Interrupted):
        signal.raise_signal(second)
    assert stop.signal == "SIGINT"


# What share_processors sets, for this thread and one that begins later: scheduler, nice value, slice; the environment.
SHARED = """
import ctypes, json, os, struct, threading
from smallvision.core.system import SCHED_SETATTR, share_processors
os.nice(5)
share_processors()
found = []
def read():
    attributes = ctypes.create_string_buffer(48)
    ctypes.CDLL(None).syscall(NUMBER, 0, attributes, 48, 0)
    _, policy, _, nice, _, runtime, _, _ = struct.unpack("IIQiIQQQ", attributes.raw)
    found.append([policy, nice, runtime])
read() if NUMBER else None
thread = threading.Thread(target=read if NUMBER else None)
thread.start()
thread.join()
print(json.dumps([found, os.environ.get("GOMP_SPINCOUNT")]))
"""


def shared(**environment: str) -> list[object]:
    number = {name: number + 1 for name, number in SCHED_SETATTR.items()}.get(platform.machine())  # sched_getattr
    names = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = SHARED.replace("NUMBER", str(number))
    out = subprocess.run([sys.executable, "-c", code], env=names | environment, check=True, capture_output=True).stdout
    found: list[object] = json.loads(out)
    return found


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in SCHED_SETATTR, reason="a way of Linux")
def test_threads_have_short_slices_and_the_nice_value_of_the_user() -> None:
    threads, _ = shared()
    version = tuple(map(int, platform.release().split(".")[:2]))
    assert threads == [[os.SCHED_OTHER, min(os.nice(0) + 5, 19), SLICE_NANOSECONDS if version >= (6, 12) else 0]] * 2


# A thread of OpenMP's for each processor; ends when each but the main one has been bound, and prints to which.
BOUND = """
import json, os, subprocess, threading
from smallvision.core.system import share_processors
share_processors()
share_processors()
assert threading.active_count() == 2
import torch
processors = os.sched_getaffinity(0)
torch.set_num_threads(len(processors))
matrix, bound = torch.eye(512), []
while len(bound) < len(processors) - 1:
    for _ in range(100):
        matrix = matrix @ matrix
    others = {int(task) for task in os.listdir("/proc/self/task")} - {os.getpid()}
    bound = [mask for mask in map(os.sched_getaffinity, others) if mask != processors]
child = subprocess.run(["nproc"], capture_output=True, text=True).stdout
print(json.dumps([sorted(map(sorted, bound)), sorted(processors), int(child)]))
"""


@pytest.mark.skipif(sys.platform != "linux" or platform.machine() not in SCHED_SETATTR, reason="a way of Linux")
def test_each_thread_that_computes_gets_a_processor_and_what_the_run_starts_gets_all() -> None:
    names = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    out = subprocess.run([sys.executable, "-c", BOUND], env=names, check=True, capture_output=True).stdout
    bound, processors, of_a_child = json.loads(out)
    assert bound == [[processor] for processor in processors[1:]]
    assert of_a_child == len(processors)


@pytest.mark.parametrize(
    ("environment", "spin"),
    [({}, SPIN_COUNT), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)],
)
def test_threads_wait_for_each_other_as_the_user_wants(environment: dict[str, str], spin: str | None) -> None:
    assert shared(**environment)[1] == spin


@pytest.mark.parametrize(
    ("groups", "limit"),
    [
        ("0::/", "memory.max"),  # a container
        ("0::/slurm/job_7/step_0", "slurm/job_7/memory.max"),
        ("9:cpu,cpuacct:/\n4:memory:/slurm/job_7\n0::/", "memory/slurm/job_7/memory.limit_in_bytes"),
        ("4:memory:/docker/of-the-host", "memory/memory.limit_in_bytes"),
    ],
)
def test_available_memory_is_what_the_kernel_says_and_at_most_the_limit_of_the_container_or_job(
    groups: str, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert available_memory() > 2**20
    for name in ("MEMORY", "CONTROL_GROUPS", "OWN_GROUPS"):
        monkeypatch.setattr(system, name, tmp_path / name)
    everything = available_memory()
    (tmp_path / "MEMORY").write_text("MemTotal:  9999 kB\nMemAvailable:    1000 kB\n")
    (tmp_path / "OWN_GROUPS").write_text(f"{groups}\n")
    assert available_memory() == 1_024_000 < everything
    file = tmp_path / "CONTROL_GROUPS" / limit
    file.parent.mkdir(parents=True)
    for content, expected in (("max", 1_024_000), ("9223372036854771712", 1_024_000), ("5000", 5000)):
        file.write_text(f"{content}\n")
        assert available_memory() == expected


# Bytes of the memory that the process still has, once it has used and freed 64 MB.
KEPT = """
from pathlib import Path
from smallvision.core.system import keep_freed_memory
keep_freed_memory()
byte = b"x"
before = int(Path("/proc/self/statm").read_text().split()[1])
byte * 2**26
print((int(Path("/proc/self/statm").read_text().split()[1]) - before) * 4096)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a way of glibc")
@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, False)])
def test_freed_memory_is_kept_unless_the_user_has_set_it(environment: dict[str, str], kept: bool) -> None:
    names = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    out = subprocess.run([sys.executable, "-c", KEPT], env=names | environment, check=True, capture_output=True).stdout
    assert (int(out) > 2**25) == kept
