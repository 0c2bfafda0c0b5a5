"""Runs of the command line in processes forked after the imports, each ended at an instant or left to end.

python -m helpers.forks reads a JSON object per line, {"cwd", "argv", "seconds"} and where wanted
    "after": a file from whose appearance on the seconds count,
    "signal": its number, SIGKILL unless told,
    "again": seconds from the first signal to a second one,
    "out": a file for standard output, else out.txt,
    "err": one for standard error, which else goes there, too,
    "memory": bytes that may be mapped,
    "env": environment variables of its own.
Answers with the exit code, or minus the signal; the seconds of the whole and from the signal on; and the most
memory that it had at any time, in MB.
"""

import atexit
import json
import os
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
from typing import Any

from helpers.command import NO_NETWORK, TRAIN


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

    def run(self, cwd: Path, argv: list[str], seconds: float | None = None, **job: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"cwd": str(cwd), "argv": argv, "seconds": seconds, **job}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


def train(cwd: Path, *overrides: str, **env: str) -> subprocess.CompletedProcess[str]:
    """As :func:`command.train`, but in a fork, which has its imports already: 3 seconds less each."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        answer = _shared().run(cwd, [*overrides], out=str(out), err=str(err), env=env)
        said = (out.read_text(), err.read_text())
    return subprocess.CompletedProcess(["train.py", *overrides], answer["code"], *said)


@cache
def _shared() -> Forks:
    """One for all tests of a process."""
    forks = Forks()
    atexit.register(forks.close)
    return forks


def child(job: dict) -> None:
    os.chdir(job["cwd"])
    os.environ.update(job.get("env", {}))
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


def run(job: dict) -> dict:
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(job)
    sent = None
    waits = [] if job["seconds"] is None else [job["seconds"]]
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


def main() -> None:
    # The imports that every run would pay for.
    import onnxscript  # noqa: F401

    import smallvision.reports.comparison_page
    import smallvision.reports.run_page
    import smallvision.tasks.descent
    import smallvision.tasks.export
    import smallvision.tasks.fit
    import smallvision.tasks.predict
    import smallvision.tasks.report
    import smallvision.tasks.test  # noqa: F401

    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
