"""Command lines in processes that are forked after the imports, so that each takes a fraction of a second.

``python -m helpers.forks`` imports everything once, then reads one job per line as JSON (see :class:`Job`), runs it
in a fork of itself and answers with one line of JSON (see :class:`Ended`). ``python -m helpers.forks --without-torch``
imports what a command line needs until it is understood; from then on an import of torch is an error.
"""

import atexit
import gc
import importlib
import importlib.abc
import json
import multiprocessing.context
import os
import pkgutil
import resource
import runpy
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, TypedDict, cast

from helpers.command import NO_NETWORK, TRAIN
from helpers.fast_yaml import parse_in_c

# torch.compile without what takes it longest: trying every vector unit, a pool of processes, precompiled headers.
PLAIN_COMPILER = {
    "TORCHINDUCTOR_VEC_ISA_OK": "0",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
    "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
}


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
    file_size: int  # bytes that no file may exceed
    stdin: str  # file for standard input
    patches: dict[str, Any]  # attributes by their full names, and what they are instead
    session: bool  # whether it leads a process group of its own
    env: dict[str, str]  # environment variables of its own
    modules: str  # a folder that modules may be imported from, too


class Ended(TypedDict):
    """How it ended."""

    code: int  # exit code, or minus the signal
    seconds: float  # wall time
    from_signal: float | None  # seconds from the first signal to the end
    peak: float  # most memory at any time, MB


class Forks:
    """A process that has imported everything, or all but torch, and runs command lines in forks of itself."""

    def __init__(self, *flags: str) -> None:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SMALLVISION")}
        python_path = os.pathsep.join(filter(None, [str(TRAIN.parent / "tests"), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "helpers.forks", *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment, **NO_NETWORK, **PLAIN_COMPILER, "OMP_NUM_THREADS": "1", "PYTHONPATH": python_path},
            text=True,
        )

    def run(self, cwd: Path, argv: list[str], seconds: float | None = None, **job: Any) -> Ended:
        """The end of ``python train.py argv`` in ``cwd``; ``job``: other keys of :class:`Job`."""
        return cast(Ended, self.ask({"cwd": str(cwd), "argv": argv, "seconds": seconds, **job}))

    def ask(self, message: dict[str, Any]) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


@cache
def shared(*flags: str) -> Forks:
    """One for all tests of a process."""
    forks = Forks(*flags)
    atexit.register(forks.close)
    return forks


class Started:
    """A command line at work in a fork, with the methods of subprocess.Popen."""

    def __init__(self, cwd: Path, argv: list[str], **more: Any) -> None:
        self.args, self.returncode = argv, cast(int | None, None)
        self.folder = Path(tempfile.mkdtemp())
        self.out, self.err = self.folder / "out", self.folder / "err"
        self.out.touch()
        job = {"cwd": str(cwd), "argv": argv, "out": str(self.out), "err": str(self.err), **more}
        self.pid = int(shared().ask({"start": job}))

    def poll(self) -> int | None:
        if self.returncode is None:
            self.returncode = shared().ask({"poll": self.pid})
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:  # the process that forked it has not waited for it, so the id is still its own
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 240) -> tuple[str, str]:
        """Its output, as soon as it has ended."""
        end = time.monotonic() + timeout
        while self.poll() is None:
            assert time.monotonic() < end, f"{self.args} has not ended"
            time.sleep(0.005)
        printed = self.out.read_text(), self.err.read_text()
        shutil.rmtree(self.folder)
        return printed


def start(cwd: Path, *overrides: str, **job: Any) -> Started:
    """As :func:`helpers.command.start`, but in a fork. ``job``: keys of :class:`Job`."""
    return Started(cwd, [*overrides], **job)


def train(cwd: Path, *overrides: str, **job: Any) -> subprocess.CompletedProcess[str]:
    """As :func:`helpers.command.train`, but in a fork, which saves the seconds that the imports take.

    ``job``: keys of :class:`Job`.
    """
    return _train(shared(), cwd, overrides, job)


def train_without_torch(cwd: Path, *overrides: str, **job: Any) -> subprocess.CompletedProcess[str]:
    """As :func:`train`, where an import of torch, Lightning or scikit-learn is an error with a traceback."""
    return _train(shared("--without-torch"), cwd, overrides, job)


def _train(
    forks: Forks, cwd: Path, overrides: tuple[str, ...], job: dict[str, Any]
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        ended = forks.run(cwd, [*overrides], out=str(out), err=str(err), **job)
        printed = (out.read_text(), err.read_text())
    return subprocess.CompletedProcess(["train.py", *overrides], ended["code"], *printed)


# In the process that forks ------------------------------------------------------------------------------


class ForkedWorker(multiprocessing.context.ForkProcess):
    """A worker of a sweep that does not import everything anew, and leaves its parent's pipes to its parent."""

    def run(self) -> None:
        ours = self._args[0]  # type: ignore[attr-defined]
        for one in gc.get_objects():
            if type(one) is Connection and one is not ours:
                one.close()
        begin_anew()
        super().run()


class Forking(multiprocessing.context.ForkContext):
    Process = ForkedWorker  # type: ignore[assignment]


class ForkingPopen(subprocess.Popen[Any]):
    """The processes of Python that a command line starts, such as a sweep's jobs, in forks as well."""

    def _execute_child(self, args: Any, *more: Any) -> None:
        if args[0] != sys.executable:
            super()._execute_child(args, *more)  # type: ignore[misc]
            return
        env, stdin, stdout, stderr = more[5], more[9], more[12], more[14]
        self.pid = os.fork()
        self._child_created = True
        if self.pid == 0:
            for descriptor, number in ((stdin, 0), (stdout, 1), (stderr, 2)):
                if descriptor != -1:
                    os.dup2(descriptor, number)
            os.closerange(3, os.sysconf("SC_OPEN_MAX"))
            os.environ.update(env or {})
            begin_anew()
            run_python([argument for argument in args[1:] if argument != "-u"])
        for here, there in ((more[10], stdin), (more[11], stdout), (more[13], stderr)):
            if here != -1 and there != -1:  # a pipe
                os.close(there)


def begin_anew() -> None:
    """As in a new process: names of run directories end in another suffix, no signal has come, and none is handled."""
    from smallvision.config import compose
    from smallvision.core.system import STOP

    assert compose._SUFFIX
    compose._SUFFIX = secrets.token_hex(3)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    STOP.__init__()  # type: ignore[misc]


def run_python(arguments: list[str]) -> NoReturn:
    """``python arguments``, which begin with a script or with -m and a module."""
    code = 1
    try:
        if arguments[0] == "-m":
            sys.argv = arguments[1:]
            runpy.run_module(sys.argv[0], run_name="__main__")
        else:
            sys.argv = arguments
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def child(job: Job) -> NoReturn:
    """Run the command line and exit."""
    gc.enable()
    begin_anew()
    os.chdir(job["cwd"])
    os.environ.update(job.get("env", {}))
    if "modules" in job:
        sys.path.append(job["modules"])
    if "memory" in job:
        resource.setrlimit(resource.RLIMIT_AS, (job["memory"], job["memory"]))
    if "file_size" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_size"], job["file_size"]))
    os.dup2(os.open(job.get("stdin", os.devnull), os.O_RDONLY), 0)
    out = job.get("out", "out.txt")
    for name, descriptor in ((out, 1), (job.get("err", out), 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
    for name, value in job.get("patches", {}).items():
        owner, _, attribute = name.rpartition(".")
        setattr(pkgutil.resolve_name(owner), attribute, tuple(value) if isinstance(value, list) else value)
    if "-m" in job["argv"]:
        subprocess.Popen = ForkingPopen  # type: ignore[misc]
        pkgutil.resolve_name("smallvision.sweeps.executors").CONTEXT = Forking()
    if job.get("session"):
        os.setsid()
    run_python([str(TRAIN), *job["argv"]])


def begin(job: Job) -> int:
    """The id of the process that runs the command line."""
    pid = os.fork()
    if pid == 0:
        child(job)
    return pid


def poll(pid: int) -> int | None:
    """The exit code of a process that was begun, once it has ended."""
    done, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def run(job: Job) -> Ended:
    started = time.monotonic()
    pid = begin(job)
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


def compose_once() -> None:
    """A config of words and numbers of every kind, so that Hydra and its parsers have their caches filled."""
    from smallvision.config.compose import compose
    from smallvision.config.resolve import resolve_config

    typed = [
        "model=cifar10", "model.widths=[8]", "data=shapes", "data.size=12", "data_dir='a b/c'", "optimizer.lr=1e-30",
        "optimizer.betas=[0.9,0.5]", "hydra.run.dir=a/b-c_d", "report=false", "+trainer.fast_dev_run=true",
    ]  # fmt: skip
    resolve_config(compose(typed), typed)


def import_everything() -> None:
    """All of smallvision, and what its libraries import late."""
    import matplotlib.backends.backend_svg
    import onnxscript
    import torch.utils.serialization.config
    from PIL import Image

    import smallvision

    for module in pkgutil.walk_packages(smallvision.__path__, "smallvision."):
        importlib.import_module(module.name)
    del matplotlib, onnxscript, torch
    Image.preinit()


class NoTorch(importlib.abc.MetaPathFinder):
    """Finds none of these, loudly."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in ("torch", "lightning", "sklearn"):
            raise RuntimeError(f"{name} was imported")


def import_without_torch() -> None:
    """The command line, without what it imports where a run begins."""
    sys.meta_path.insert(0, NoTorch())
    importlib.import_module("smallvision.cli")


def main() -> None:
    gc.disable()
    parse_in_c()
    if "--without-torch" in sys.argv:
        import_without_torch()
    else:
        import_everything()
    compose_once()
    gc.collect()
    gc.freeze()  # a fork's collections leave what was imported alone, and its pages shared
    at_work: set[int] = set()
    for line in sys.stdin:
        message, answer = json.loads(line), cast(Any, None)
        if "start" in message:
            answer = begin(message["start"])
            at_work.add(answer)
        elif "poll" in message:
            answer = poll(message["poll"])
            if answer is not None:
                at_work.discard(message["poll"])
        else:
            answer = run(message)
        print(json.dumps(answer), flush=True)
    for pid in at_work:  # their tests have failed
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
