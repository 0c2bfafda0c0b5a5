"""Worker processes of a sweep are set up as `python train.py` is."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

# A worker whose run gives, as its reason, the bytes that it still has of 64 MB which it has used and freed.
WORKER = """
from pathlib import Path
from smallvision.sweeps.executors import CONTEXT, work
from smallvision.sweeps.trial import Reason, TrialRun

class Kept(TrialRun):
    def execute(self, callbacks=()):
        byte, statm = b"x", Path("/proc/self/statm")
        before = int(statm.read_text().split()[1])
        byte * 2**26
        return Reason(str((int(statm.read_text().split()[1]) - before) * 4096))

if __name__ == "__main__":
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=work, args=(theirs, Path("log"), {}), daemon=True)
    process.start()
    theirs.close()
    ours.send(Kept(0, 0, [], Path("run"), Path("configs")))
    print(ours.recv()[1].text)
    ours.close()  # its end
    process.join()
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a way of glibc")
def test_a_worker_keeps_freed_memory(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(WORKER)
    names = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "script.py"]
    out = subprocess.run(command, cwd=tmp_path, env=names, check=True, capture_output=True).stdout
    assert int(out) > 2**25
