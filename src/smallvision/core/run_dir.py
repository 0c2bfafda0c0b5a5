"""The run directory: the files of a run, and the only channel between it and whoever watches it."""

import json
import logging
import os
import platform
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import yaml
from filelock import FileLock, Timeout

from smallvision import __version__
from smallvision.core import ranks
from smallvision.core.errors import Interrupted, LostProcess, UserError

PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "hydra-core", "omegaconf", "numpy",
)  # fmt: skip
SCRIPT = Path(__file__).parents[3] / "train.py"
INSTALLED = not SCRIPT.is_file()  # as a package, without train.py
PROGRAM = "smallvision" if INSTALLED else "python train.py"
WORDS = ("null", "true", "false", "nan", "inf")  # that are values of their own in an override
RUNS = Path("outputs/runs")  # where a run of a short name lies
LAST = "last"  # is no such name, but the newest of them
STAMPED = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-(.+)")  # the name of a run directory: time and short name
SCRATCH = ".part"  # ends the name of a file that is being written


class RunDir:
    """One run's directory, at ``path``. ``overrides``: what was typed for this start.

    Of several processes of one run only rank 0 reads and writes it (``is_writer``).
    """

    def __init__(self, path: Path, overrides: list[str] | None = None) -> None:
        self.path, self.overrides = path, overrides or []
        self.config_file = path / "config.yaml"  # the resolved config, enough to run it again
        self.overrides_file = path / "overrides.yaml"
        self.environment_json = path / "environment.json"
        self.results_json = path / "results.json"
        self.metrics_csv = path / "metrics.csv"  # a row per epoch, and per validation within one
        self.steps_npy = path / "steps.npy"  # loss and learning rate of every step
        self.running_json = path / "running.json"  # while the run is under way: what results.json will say of it
        self.report_html = path / "report.html"
        self.report_npz = path / "report.npz"  # the arrays that report.html shows
        self.checkpoints = path / "checkpoints"
        self.best_checkpoint = self.checkpoints / "best.ckpt"
        self.last_checkpoint = self.checkpoints / "last.ckpt"
        self.stop_file = path / "stop"  # asks the run to stop at its next step
        self.is_writer = ranks.rank() == 0
        self.started = time.perf_counter()
        self.seconds_before = 0.0  # of earlier processes, where the run is continued
        self.existed = self.config_file.is_file()
        self.empty = False  # when it was opened
        self._described = False
        self._handler: logging.Handler | None = None
        self._lock = FileLock(path / ".lock", timeout=0)

    def stop_requested(self) -> bool:
        return self.is_writer and self.stop_file.exists()

    def open(self) -> None:
        """Start train.log; what libraries warn of goes there, not to the screen.

        Raises UserError where another process is at work on this run.
        """
        if self.is_writer:
            try:
                self._lock.acquire()
            except Timeout:
                raise UserError(f"{self.path}: another process is at work on this run; wait for its end") from None
            clear_scratch(self.path)
            self.empty = all(file.name == ".lock" for file in self.path.iterdir())
        root = logging.getLogger()
        root.setLevel(logging.INFO)
        logging.captureWarnings(True)
        if self.is_writer:
            self._handler = _LogFile(self.path / "train.log", encoding="utf-8")
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
        locked = self._lock.is_locked
        self.close()
        if self.is_writer and locked and not self.existed and not self._described:
            for file in self.path.iterdir() if self.empty else (self.path / "train.log", self.path / ".lock"):
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
            for folder in (self.path, *self.path.parents[:3]):
                try:
                    folder.rmdir()  # only where empty
                except OSError:
                    return

    def describe(self, config: dict[str, object], hardware: str) -> None:
        """Write config.yaml, overrides.yaml and environment.json. ``config``: that of the run, as plain data."""
        self._described = True
        if not self.is_writer:
            return
        plain = {key: value for key, value in config.items() if key not in ("resume", "rerun")}
        self.write(self.config_file, yaml.safe_dump(plain, sort_keys=False))
        before = yaml.safe_load(self.overrides_file.read_text()) if self.overrides_file.is_file() else []
        typed = [one for one in self.overrides if not one.startswith(("resume=", "hydra."))]
        last = {one.partition("=")[0]: one for one in [*before, *typed]}
        self.write(self.overrides_file, yaml.safe_dump([*last.values()]))
        self.write(self.environment_json, json.dumps(environment(hardware, self.overrides), indent=2) + "\n")

    @property
    def seconds(self) -> float:
        """Of work on this run, in this process since it opened the run and in earlier ones."""
        return self.seconds_before + time.perf_counter() - self.started

    def write(self, file: Path, text: str) -> None:
        """Write one of the run's files, completely or not at all; only rank 0 does. Raises UserError on a full disk."""
        if not self.is_writer:
            return
        try:
            write_text(file, text)
        except OSError as error:
            raise UserError(
                f"{file}: cannot be written: {error.strerror}; with free space resume={self.path} goes on"
            ) from None


def short_name(directory: Path) -> str:
    """What ``resume=``, ``checkpoint=`` and ``runs=`` take for a run in outputs/runs; else its last folders."""
    stamped = STAMPED.fullmatch(directory.name)
    return stamped[1] if stamped else str(Path(*directory.parts[-2:]))


def find_run(name: str, key: str) -> str:
    """The path that ``key=name`` means: ``name`` may be a path, a run's short name, or ``last`` for the newest run.

    Where a checkpoint is meant, a run directory becomes its best one, and elsewhere a checkpoint its run directory, as
    a config.yaml always does. What is none of them is given back as it is. Raises UserError where several runs have
    that short name, or where there is no name or no run.
    """
    path = name
    if not os.path.lexists(name):
        runs = [file.parent for file in RUNS.glob("*/*/config.yaml") if STAMPED.fullmatch(file.parent.name)]
        named = sorted(str(run) for run in runs if name == short_name(run))
        if not name or (name == LAST and not runs):
            raise UserError(f"{key}={name}: {f'no run in {RUNS} yet' if name else f'type a run, such as {key}=last'}")
        if len(named) > 1:
            raise UserError(f"{key}={name}: {len(named)} runs have that name, type one: {', '.join(named)}")
        path = str(max(runs, key=_age)) if name == LAST else [*named, name][0]
    parent, file = os.path.split(path)
    if file == "config.yaml":
        path = parent or "."
    best = os.path.join(path, "checkpoints", "best.ckpt")  # noqa: PTH118
    if key == "checkpoint":
        return best if os.path.isfile(best) else path  # noqa: PTH113 - Path's own raises for a name that is too long
    is_checkpoint = file.endswith(".ckpt") and os.path.basename(parent) == "checkpoints"  # noqa: PTH119
    return os.path.dirname(parent) or "." if is_checkpoint else path  # noqa: PTH120


def not_a_run(path: Path, key: str) -> str:
    """Why ``key=path``, a directory, leads to no run that can be continued, or to no checkpoint, and what to type."""
    config, last = path / "config.yaml", path / "checkpoints" / "last.ckpt"
    if last.is_file():
        return f"a run without checkpoints/best.ckpt; {as_typed(key, last)} is its newest one"
    if config.is_file():
        return f"a run that saved no checkpoint, see {path / 'train.log'}"
    runs = [file.parent for depth in range(1, 4) for file in path.glob(f"{'*/' * depth}config.yaml")]
    if not runs:
        return "not a run directory: it has no config.yaml"
    kind = "a sweep, which its own command continues," if (path / "sweep.yaml").is_file() else "a folder"
    return f"{kind} of {len(runs)} run{'s' * (len(runs) > 1)}; the newest is {as_typed(key, max(runs, key=_age))}"


def folder_name(path: str) -> str:
    """What images of the user's own, at ``path``, are known by: the name of their folder or file, fit for others."""
    place = Path(path).expanduser().resolve()
    return re.sub(r"[^\w-]+", "-", place.stem if place.is_file() else place.name)


def _age(run: Path) -> tuple[str, float]:
    return run.name[:19], run.stat().st_mtime


def is_locked(directory: Path, name: str = ".lock") -> bool:
    """Whether a process holds the lock of that directory, of a run or of a sweep."""
    if not (directory / name).is_file():
        return False
    try:
        with FileLock(directory / name, timeout=0):
            return False
    except (Timeout, OSError):
        return True


@contextmanager
def opened(path: Path, overrides: list[str]) -> Iterator[RunDir]:
    """The run directory while it is worked on; without a trace where the run is refused or stopped before it begins."""
    run_dir = RunDir(path, overrides)
    try:
        run_dir.open()
        yield run_dir
    except (UserError, LostProcess, Interrupted, KeyboardInterrupt):
        run_dir.discard()
        raise
    finally:
        run_dir.close()


class _LogFile(logging.FileHandler):
    """A full disk leaves gaps in train.log, and no tracebacks on the screen."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        pass

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def command(*arguments: str, anywhere: bool = False) -> str:
    """A command line that a shell takes as it stands in this folder, or ``anywhere``."""
    start = [Path(sys.executable).name, *(["-m", "smallvision"] if INSTALLED else [_from_here(SCRIPT)])]
    if INSTALLED and Path(sys.executable).with_name("smallvision").is_file():
        start = ["smallvision"]
    line = installed(*start, *arguments)
    return f"cd {_quoted(str(Path.cwd()))} && {line}" if anywhere else line


def start_command(*arguments: str) -> list[str]:
    """The arguments that start this command line in another process."""
    return [sys.executable, *(["-m", "smallvision"] if INSTALLED else [str(SCRIPT)]), *arguments]


def installed(program: str, *arguments: str) -> str:
    """A command line, as a shell takes it, of a program that is installed beside this Python."""
    path = Path(sys.executable).with_name(program)
    on_path = not path.is_file() or shutil.which(program) == str(path)
    return shell_line(program if on_path else _from_here(path), *arguments)


def as_typed(key: str, value: object) -> str:
    """``key=value`` as it is typed in a shell."""
    return shell_line(assign(key, value))


def shell_line(*words: str) -> str:
    """The words as a shell takes them: in double quotes where they hold single ones, as an override's value may."""
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    if "'" not in word or set(word) & set("!$`"):  # which a shell replaces within double quotes
        return shlex.quote(word)
    return '"{}"'.format(re.sub(r'(["\\])', r"\\\1", word))


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def assign(key: str, value: object) -> str:
    """``key=value`` as Hydra takes it, in quotes where the value needs them."""
    plain = re.fullmatch(r"[A-Za-z_./]([\w./+ -]*[\w./+-])?", str(value), re.ASCII) and str(value).lower() not in WORDS
    return f"{key}={value if plain else quote(value)}"


def using(names: object) -> list[str]:
    """The override that allows code of the user's own, where a config has any: ``names``, its ``use``."""
    if not isinstance(names, list) or not names:
        return []
    return [f"use={names[0]}" if len(names) == 1 else f"use=[{','.join(map(str, names))}]"]


def typed_use(overrides: list[str]) -> list[str]:
    """The override that allows code of the user's own, where it is among those."""
    return [line for line in overrides if line.startswith("use=")]


def quote(value: object) -> str:
    """A value as an override takes it, whatever characters it has."""
    escaped = re.sub(r"(\\+)(?='|$)", r"\1\1", str(value)).replace("'", "\\'")  # others stand for themselves
    return f"'{escaped}'"


def environment(hardware: str, overrides: list[str]) -> dict[str, object]:
    """What results depend on beside the config."""
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
        "command": shell_line(*PROGRAM.split(), *overrides),
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def git_revision() -> str | None:
    """The commit of this code, with a + where files differ from it; None outside a checkout."""
    if INSTALLED:  # in a folder that may lie in a checkout of something else
        return None
    describe = ["git", "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+"]
    try:
        done = subprocess.run(
            describe, cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=5
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


# Files that are there completely or not at all ------------------------------------------------------------------


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Gives a scratch file beside ``path`` to write; afterwards it is synced and renamed to ``path``.

    Where the block raises, ``path`` stays as it was and the scratch file is removed.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}{SCRATCH}")  # so that no signal comes before its name
    try:
        scratch.touch(exist_ok=False)
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.chmod(0o644)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    with atomic_write(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def clear_scratch(folder: Path) -> None:
    """Remove what a killed process left half written in ``folder`` and below."""
    for scratch in folder.rglob(f".*{SCRATCH}"):
        scratch.unlink(missing_ok=True)
