"""The run directory: its files, its log and the commands that go on from it."""

import json
import logging
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from smallvision import __version__
from smallvision.core.errors import UserError

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "omegaconf",
    "numpy",
)


class Log(logging.FileHandler):
    """A full disk leaves gaps in train.log, and no tracebacks on the screen."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class RunDir:
    """One run directory, which Hydra has made.

    ``typed``: the overrides of the command line. ``first``: whether this process writes the files (of
    several processes of one run, one does).
    """

    def __init__(self, directory: Path, typed: list[str]) -> None:
        self.directory, self.typed = directory, typed
        self.first = int(os.environ.get("LOCAL_RANK", 0)) == 0
        self.started = time.perf_counter()
        self.was_there = (directory / "config.yaml").is_file()
        self.began = False
        self._handler: logging.Handler | None = None
        self._lock = FileLock(directory / ".lock", timeout=0)

    def open(self) -> None:
        """Start train.log; what libraries warn of goes there, not to the screen.

        Raises UserError where another process is at work on this run.
        """
        if self.first:
            try:
                self._lock.acquire()
            except Timeout:
                raise UserError(f"{self.directory}: another process is at work on this run; wait for its end") from None
            clear_scratch(self.directory)
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        logging.captureWarnings(True)
        if self.first:
            self._handler = Log(self.directory / "train.log", encoding="utf-8")
            self._handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            root.addHandler(self._handler)

    def close(self) -> None:
        if self._handler is not None:
            logging.getLogger().removeHandler(self._handler)
            self._handler.close()
            self._handler = None
        self._lock.release()

    def discard(self) -> None:
        """Leave no trace of a run that was refused before it began."""
        ours = self._lock.is_locked
        self.close()
        if self.first and ours and not self.was_there and not self.began:
            for name in ("train.log", ".lock"):
                (self.directory / name).unlink(missing_ok=True)
            for folder in (self.directory, *self.directory.parents[:3]):
                try:
                    folder.rmdir()  # only where empty
                except OSError:
                    return

    def describe(self, config: dict[str, Any], hardware: str) -> None:
        """Write config.yaml, overrides.yaml and environment.json."""
        self.began = True
        if not self.first:
            return
        kept = {key: value for key, value in config.items() if key != "resume"}
        _write(self.directory / "config.yaml", yaml.safe_dump(kept, sort_keys=False))
        overrides = self.directory / "overrides.yaml"
        typed = yaml.safe_load(overrides.read_text()) if overrides.is_file() else []
        new = [one.removeprefix("++") for one in self.typed]
        typed += [one for one in new if one not in typed and not one.startswith(("resume=", "hydra."))]
        _write(overrides, yaml.safe_dump(typed))
        _write(self.directory / "environment.json", json.dumps(environment(hardware), indent=2) + "\n")

    def results(self, figures: dict[str, Any]) -> None:
        """Write results.json."""
        if self.first:
            _write(self.directory / "results.json", json.dumps(figures, indent=2) + "\n")

    @property
    def seconds(self) -> float:
        """Since this process opened the run."""
        return time.perf_counter() - self.started


@contextmanager
def opened(directory: Path, typed: list[str]) -> Iterator[RunDir]:
    """The run of that directory while it is worked on; without a trace where it is refused at once."""
    run = RunDir(directory, typed)
    try:
        run.open()
        yield run
    except UserError:
        run.discard()
        raise
    finally:
        run.close()


def _write(file: Path, text: str) -> None:
    try:
        write_text(file, text)
    except OSError as error:
        raise UserError(
            f"{file}: cannot be written: {error.strerror}; with free space resume={file.parent} goes on"
        ) from None


def command(*arguments: str) -> str:
    """A command line that a shell takes as it stands."""
    return shlex.join(["python", "train.py", *arguments])


def environment(hardware: str) -> dict[str, Any]:
    """What the figures depend on beside the config."""
    versions = {"smallvision": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "hardware": hardware,
        "packages": versions,
        "git": git_revision(),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_revision() -> str | None:
    """The commit that this code is at, with a + where files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=5
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


SCRATCH = ".part"


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a scratch file beside ``path`` to write; afterwards it is synced and renamed to ``path``.

    Where the block raises, ``path`` stays as it was and the scratch file is gone.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=SCRATCH, dir=path.parent)
    os.close(descriptor)
    scratch = Path(name)
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.chmod(0o644)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def clear_scratch(folder: Path) -> None:
    """Remove what a killed process left half written in ``folder`` and below."""
    for scratch in folder.rglob(f".*{SCRATCH}"):
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
