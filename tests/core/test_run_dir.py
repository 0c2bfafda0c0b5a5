"""The files of a run directory."""

import json
import logging
import shlex
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from helpers.command import TRAIN

from smallvision.config.compose import parse
from smallvision.core import run_dir as runs
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir, assign, atomic_write, command, find_run, installed, not_a_run, write_text

CONFIG = {"task": "fit", "seed": 3, "resume": "old", "data": {"name": "mnist", "mean": [0.5]}}


@pytest.fixture(autouse=True)
def _logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RANK", raising=False)
    root = logging.getLogger()
    level = root.level
    yield
    root.setLevel(level)
    logging.captureWarnings(False)


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_a_run_keeps_its_config_but_not_what_continued_it(tmp_path: Path) -> None:
    RunDir(tmp_path, []).describe(CONFIG, "a processor")
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert kept == {"task": "fit", "seed": 3, "data": {"name": "mnist", "mean": [0.5]}}
    assert list(kept) == ["task", "seed", "data"]
    assert names(tmp_path) == ["config.yaml", "environment.json", "overrides.yaml"]


def test_what_was_typed_adds_up_over_continuations(tmp_path: Path) -> None:
    RunDir(tmp_path, ["seed=3", "model=mnist"]).describe(CONFIG, "")
    RunDir(tmp_path, [f"resume={tmp_path}", "trainer.max_epochs=9", "seed=3"]).describe(CONFIG, "")
    kept = yaml.safe_load((tmp_path / "overrides.yaml").read_text())
    assert kept == ["seed=3", "model=mnist", "trainer.max_epochs=9"]


def test_the_environment_says_what_the_figures_depend_on(tmp_path: Path) -> None:
    RunDir(tmp_path, []).describe(CONFIG, "a processor")
    kept = json.loads((tmp_path / "environment.json").read_text())
    assert kept["hardware"] == "a processor"
    assert {"python", "platform", "packages", "git", "command", "started"} < kept.keys()
    assert {"torch", "lightning", "hydra-core", "numpy"} <= kept["packages"].keys()


def test_a_package_that_is_not_installed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PACKAGES", ("numpy", "a-package-that-nobody-wrote"))
    assert list(runs.environment("", [])["packages"]) == ["smallvision", "numpy"]


def test_only_the_first_of_several_processes_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    run = RunDir(tmp_path, ["seed=3"])
    run.open()
    run.describe(CONFIG, "")
    run.write(run.results_json, "{}")
    run.close()
    run.discard()
    assert names(tmp_path) == []
    assert tmp_path.is_dir()


def test_the_log_holds_what_was_said_and_warned_while_the_run_was_open(tmp_path: Path) -> None:
    run = RunDir(tmp_path, [])
    run.open()
    logging.getLogger("smallvision").info("epoch one")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.getLogger("py.warnings").warning("beware")
    run.close()
    logging.getLogger("smallvision").info("too late")
    kept = (tmp_path / "train.log").read_text()
    assert "epoch one" in kept
    assert "beware" in kept
    assert "too late" not in kept


def test_closing_twice_is_closing_once(tmp_path: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    run = RunDir(tmp_path, [])
    run.open()
    run.close()
    run.close()
    assert logging.getLogger().handlers == handlers


def test_a_refused_run_leaves_nothing_where_it_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    directory = Path("outputs/runs/mnist-mnist-adam/now")
    directory.mkdir(parents=True)
    run = RunDir(directory, [])
    run.open()
    run.discard()
    assert names(tmp_path) == []


def test_a_refused_run_leaves_other_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        Path(f"outputs/runs/x/{name}").mkdir(parents=True)
    run = RunDir(Path("outputs/runs/x/second"), [])
    run.open()
    run.discard()
    assert names(tmp_path / "outputs" / "runs" / "x") == ["first"]


def test_a_refused_continuation_keeps_the_run(tmp_path: Path) -> None:
    RunDir(tmp_path, []).describe(CONFIG, "")
    run = RunDir(tmp_path, [f"resume={tmp_path}"])
    run.open()
    run.discard()
    assert names(tmp_path) == [".lock", "config.yaml", "environment.json", "overrides.yaml", "train.log"]


def test_a_run_refused_because_another_is_at_work_there_leaves_that_one_alone(tmp_path: Path) -> None:
    first, second = RunDir(tmp_path, []), RunDir(tmp_path, [])
    first.open()
    with pytest.raises(UserError, match="another process is at work"):
        second.open()
    second.discard()
    assert names(tmp_path) == [".lock", "train.log"]
    first.close()
    second.open()
    second.close()


def test_a_refused_run_keeps_what_somebody_else_put_there(tmp_path: Path) -> None:
    directory = tmp_path / "mine"
    directory.mkdir()
    (directory / "notes.txt").write_text("x")
    run = RunDir(directory, [])
    run.open()
    run.discard()
    assert names(directory) == ["notes.txt"]


@pytest.mark.parametrize(
    "folder",
    [
        "outputs/a",
        "with space",
        "qu'ote",
        'dou"ble',
        "$HOME;x",
        "größe",
        "a=b",
        "a,b",
        "[1]",
        "a  b/c d",
        "it's $5 `x` \\\"",
        "null",
        "2026",
        "back\\slash",
    ],
)
def test_a_command_can_be_pasted_into_a_shell_and_is_understood(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    printed = command("task=fit", assign("resume", folder))
    assert "$" in folder or """'"'""" not in printed  # one level of quotes
    words = shlex.split(printed)
    assert words[1:3] == [str(TRAIN), "task=fit"]
    assert parse(words[3:])[0].value() == folder
    assert shlex.split(command(anywhere=True))[:3] == ["cd", str(tmp_path), "&&"]


def test_a_program_beside_this_python_is_printed_with_its_path_unless_it_is_on_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert installed("tensorboard", "--logdir", "a b") == "tensorboard --logdir 'a b'"
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/tensorboard").touch(mode=0o755)
    assert installed("tensorboard") == ".venv/bin/tensorboard"
    monkeypatch.setenv("PATH", str(tmp_path / ".venv/bin"))
    assert installed("tensorboard") == "tensorboard"


def test_the_seconds_of_a_run_only_grow(tmp_path: Path) -> None:
    run = RunDir(tmp_path, [])
    first = run.seconds
    assert 0 <= first <= run.seconds


def test_the_revision_says_whether_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a"]
        return subprocess.run(["git", "-C", tmp_path, *who, *arguments], capture_output=True, text=True).stdout.strip()

    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"], ["tag", "-a", "v1", "-m", "x"]):
        git(*arguments)
    monkeypatch.setattr(runs, "__file__", str(file))
    commit = git("rev-parse", "HEAD")
    assert len(commit) == 40
    assert runs.git_revision() == commit
    (tmp_path / "untracked").touch()
    assert runs.git_revision() == commit
    file.write_text("x = 2\n")
    assert runs.git_revision() == f"{commit}+"


def test_there_is_no_revision_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert runs.git_revision() is None


# Files that are there completely or not at all ---------------------------------------------------------


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_write(target) as scratch:
        scratch.write_text("new")
        assert not target.exists()
        assert scratch.parent == tmp_path
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_write(target) as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "old"


def test_a_file_that_never_was_leaves_nothing_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), atomic_write(tmp_path / "a.txt"):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_file_that_vanished_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(target) as scratch:
        scratch.unlink()
    assert target.read_text() == "old"


def test_others_may_read_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_text_is_kept_in_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "größe 日本\n")
    assert (tmp_path / "a.txt").read_bytes() == "größe 日本\n".encode()


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    for text in ("long long long", "short"):
        write_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text() == "short"


def test_a_run_is_found_by_its_short_name_its_directory_or_its_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="resume=last: no run in outputs/runs yet"):
        find_run("last", "resume")
    runs = [Path(f"outputs/runs/mnist-mnist-adam/2026-11-2{day}_10-00-00-{name}") for day, name in enumerate("abca")]
    for run in runs:
        (run / "checkpoints").mkdir(parents=True)
        (run / "checkpoints/best.ckpt").touch()
        (run / "config.yaml").touch()
    assert find_run("b", "resume") == str(runs[1])
    assert find_run("last", "resume") == str(runs[3])  # the newest one
    with pytest.raises(UserError, match=rf"runs=a: 2 runs have that name, type one: {runs[0]}, {runs[3]}"):
        find_run("a", "runs")
    best = f"{runs[1]}/checkpoints/best.ckpt"
    assert find_run("b", "checkpoint") == find_run(str(runs[1]), "checkpoint") == find_run(best, "checkpoint") == best
    assert (
        find_run(best, "resume")
        == find_run(best, "runs")
        == find_run(f"{runs[1]}/config.yaml", "rerun")
        == str(runs[1])
    )
    (runs[2] / "checkpoints/best.ckpt").unlink()
    assert not_a_run(runs[2], "checkpoint") == f"a run that saved no checkpoint, see {runs[2]}/train.log"
    (runs[2] / "checkpoints/last.ckpt").touch()
    assert not_a_run(runs[2], "checkpoint").endswith(f"checkpoint={runs[2]}/checkpoints/last.ckpt is its newest one")
    assert not_a_run(Path("outputs"), "resume") == f"a folder of 4 runs; the newest is resume={runs[3]}"
    Path("outputs/sweep.yaml").touch()
    assert not_a_run(Path("outputs"), "runs").startswith("a sweep, which its own command continues, of 4 runs")
    for other in ("d", "outputs/runs", "*", "a" * 300, "file.ckpt"):
        assert find_run(other, "resume") == find_run(other, "checkpoint") == other
    Path("last").mkdir()
    assert find_run("last", "resume") == "last"  # a path wins
