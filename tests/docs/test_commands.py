"""Every command line of the README and of the verbs' pages is one that today's configs accept, or refuse as printed."""

import re
import shlex
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from helpers.command import TRAIN
from helpers.forks import train

from smallvision.config.compose import compose
from smallvision.config.resolve import resolve_config

ROOT = TRAIN.parent
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - set((ROOT / "docs").glob("tutorial*.md")))]
COMMAND = re.compile(r"^(?:\$ )?python train\.py (.*?)(?:\s+#.*)?$|`python train\.py ([^`]*)`", re.MULTILINE)
REFUSED = re.compile(r"^\$ python train\.py (.*)\n(error: .*)$", re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Of one run each; sweeps are tested where they are run."""
    found = [block or inline for block, inline in COMMAND.findall(page.read_text(encoding="utf-8"))]
    refused = [command for command, _ in REFUSED.findall(page.read_text(encoding="utf-8"))]
    runs = [command for command in found if command not in refused and not command.startswith(("-m", "--"))]
    return sorted(set(runs))


CASES = [pytest.param(command, id=f"{page.stem}: {command}") for page in PAGES for command in commands(page)]


@pytest.mark.parametrize("command", CASES)
def test_a_command_is_accepted(
    command: str, finished: tuple[Path, CompletedProcess[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    (folder / "photos").mkdir(exist_ok=True)
    (folder / "mine.npz").touch()
    (folder / "run/running.json").touch()  # as if it had been killed: a complete run is not continued
    if not (folder / "examples").exists():
        (folder / "examples").symlink_to(ROOT / "examples")
    here = {"checkpoint": "checkpoint=run/checkpoints/best.ckpt", "resume": "resume=run", "rerun": "rerun=run"}
    typed = [here.get(word.split("=")[0], word) for word in shlex.split(command)]
    monkeypatch.chdir(folder)
    resolve_config(compose(typed), typed)


@pytest.mark.parametrize(
    ("command", "message"), [found for page in PAGES for found in REFUSED.findall(page.read_text())]
)
def test_a_mistake_is_refused_as_printed(command: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# smallvision\n")
    ended = train(tmp_path, *shlex.split(command))
    assert (ended.returncode, ended.stderr) == (2, message + "\n")
