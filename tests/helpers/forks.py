"""Command lines in processes that are forked after the imports, so that each takes a fraction of a second.

``python -m helpers.forks`` imports everything once, then reads one job per line as JSON (see :class:`Job`), runs it
in a fork of itself and answers with one line of JSON (see :class:`Ended`).
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from pathlib import Path
from typing import Any, TypedDict, cast

from helpers.command import NO_NETWORK, TRAIN


class Job(TypedDict, total=False):
    """One command line and what happens to it."""

    cwd: str
    argv: list[str]
    seconds: float | None  # when it is sent a signal; None: it is left to end
    after: str  # a file from whose appearance on the seconds count
    signal: int  # SIGKILL unless given
    again: float  # seconds from the first signal to a second one
    out: str  # file for standard output, out.txt unless given
    err: str  # file for standard error, that of standard output unless given
    memory: int  # bytes of address space
    env: dict[str, str]  # environment variables of its own
    modules: str  # a folder that modules may be imported from, too


class Ended(TypedDict):
    """How it ended."""

    code: int  # exit code, or minus the signal
    seconds: float  # wall time
    from_signal: float | None  # seconds from the first signal to the end
    peak: float  # most memory at any time, MB


class Forks:
    """A process that has imported everything and runs command lines in forks of itself."""

    def __init__(self) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "SMALLVISION_DATA"}
        python_path = os.pathsep.join(filter(None, [str(TRAIN.parent / "tests"), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, **NO_NETWORK, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
            text=True,
        )

    def run(self, cwd: Path, argv: list[str], seconds: float | None = None, **job: Any) -> Ended:
        """The end of ``python train.py argv`` in ``cwd``; ``job``: other keys of :class:`Job`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"cwd": str(cwd), "argv": argv, "seconds": seconds, **job}) + "\n")
        self.process.stdin.flush()
        return cast(Ended, json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@cache
def shared() -> Forks:
    """One for all tests of a process."""
    forks = Forks()
    atexit.register(forks.close)
    return forks


def train(cwd: Path, *overrides: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As :func:`helpers.command.train`, but in a fork, which saves the seconds that the imports take."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        ended = shared().run(cwd, [*overrides], out=str(out), err=str(err), env=env)
        printed = (out.read_text(), err.read_text())
    return subprocess.CompletedProcess(["train.py", *overrides], ended["code"], *printed)


# In the process that forks ------------------------------------------------------------------------------


def child(job: Job) -> None:
    """Run the command line and exit; never returns."""
    gc.enable()
    os.chdir(job["cwd"])
    os.environ.update(job.get("env", {}))
    if "modules" in job:
        sys.path.append(job["modules"])
    if "memory" in job:
        resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    out = job.get("out", "out.txt")
    for name, descriptor in ((out, 1), (job.get("err", out), 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    sys.argv = [str(TRAIN), *job["argv"]]
    code = 1
    try:
        runpy.run_path(str(TRAIN), run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def run(job: Job) -> Ended:
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(job)
    sent = None
    seconds = job["seconds"]
    waits = [] if seconds is None else [seconds]
    waits += [waits[0] + job["again"]] if "again" in job else []
    after = Path(job["cwd"], job.get("after", ""))  # the folder itself is there
    ends: list[float] = []
    while True:
        if waits and after.exists():
            ends, waits = [time.monotonic() + wait for wait in waits], []
        done, status, used = os.wait4(pid, os.WNOHANG if ends or waits else 0)
        now = time.monotonic()
        if done:
            return {
                "code": os.waitstatus_to_exitcode(status),
                "seconds": now - started,
                "from_signal": None if sent is None else now - sent,
                "peak": used.ru_maxrss / 1000,
            }
        if ends and now >= ends[0]:
            os.kill(pid, job.get("signal", signal.SIGKILL))
            sent, ends = sent or now, ends[1:]
        time.sleep(0.001)


def import_everything() -> None:
    """All of smallvision, what its libraries import late, and one composition, which fills Hydra's caches."""
    import matplotlib.backends.backend_svg
    import onnxscript
    import torch.utils.serialization.config
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from PIL import Image

    import smallvision

    for module in pkgutil.walk_packages(smallvision.__path__, "smallvision."):
        importlib.import_module(module.name)
    del matplotlib, onnxscript, torch
    Image.preinit()
    with initialize_config_dir(str(TRAIN.parent / "configs"), version_base="1.3"):
        compose("train", ["model=cifar10", "optimizer.lr=0.1"])
    GlobalHydra.instance().clear()


def main() -> None:
    gc.disable()
    import_everything()
    gc.collect()
    gc.freeze()  # a fork's collections leave what was imported alone, and its pages shared
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
