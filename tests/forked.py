"""Runs of the command line in processes forked after the imports, each killed at an instant or left to end.

python forked.py: reads a JSON object per line, {"cwd", "argv", "seconds"}; answers with the exit code, or -9
where it was killed after that many seconds.
"""

import json
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

TRAIN = Path(__file__).parents[1] / "train.py"


def child(job: dict) -> None:
    os.chdir(job["cwd"])
    out = os.open("out.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
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


def run(job: dict) -> int:
    pid = os.fork()
    if pid == 0:
        child(job)
    ends = None if job["seconds"] is None else time.monotonic() + job["seconds"]
    while True:
        done, status = os.waitpid(pid, 0 if ends is None else os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= ends:
            os.kill(pid, signal.SIGKILL)
            ends = None
        time.sleep(0.001)


def main() -> None:
    import smallvision.tasks.fit  # noqa: F401 - the imports that every run would pay for

    for line in sys.stdin:
        started = time.monotonic()
        code = run(json.loads(line))
        print(json.dumps({"code": code, "seconds": time.monotonic() - started}), flush=True)


if __name__ == "__main__":
    main()
