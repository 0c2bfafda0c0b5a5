"""Every command of the tutorial runs as it is printed, section by section, on little data and without a network."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from helpers.command import TRAIN
from helpers.forks import train

from smallvision.data.shapes import shapes

ROOT = TRAIN.parent
PAGES = {name: ROOT / "docs" / name for name in ("tutorial.md", "tutorial.ja.md")}
# Appended to a command that holds the word: the same command, on less. Of a key that is typed twice, the latter counts.
LESS = {
    "task=bench": ["bench.rounds=1", "bench.seconds=0.02"],
    "task=test": ["report=false"],
    "-m": ["report=false"],
    "sweep.name=seeds": ["seed=1,2"],
    "sweep.name=rates": ["optimizer.lr=0.01"],
    "experiment=tutorial_mnist": ["data.val_size=100"],
    "experiment=tutorial_fashion": ["data.val_size=100", "report=false"],
    "experiment=tutorial_cifar10": ["data.val_size=50"],
}
# What no override makes smaller: a benchmark's products, and the stand-ins of data sets that are not here.
SMALLER = {
    "smallvision.tasks.bench.measure.SIZES": (50,),
    "smallvision.tasks.bench.measure.SECONDS": 0.01,
    "smallvision.data.shapes.shapes.__defaults__": (350, 100, *shapes.__defaults__[2:]),
}
FIRST = ["experiment=tutorial_mnist", "hydra.run.dir=outputs/first"]
# By section: files that its commands write.
WRITTEN = {
    1: ["first/report.html", "first/model.pt", "comparison.html", "adam_slower/results.json"],
    2: ["cifar10/report.html"],
    3: ["bench/bench.png"],
    4: ["fashion/model.pt", "fashion_again/results.json", "fashion_test/results.json"],
    5: ["accumulated/report.html"],
    6: ["descent/descent.png", "rates/descent.png", "ravine/descent.png"],
    7: ["sweeps/seeds/sweep.html"],
    8: ["sweeps/rates/sweep.html"],
    9: ["first/results.json"],
    10: ["first/model.onnx", "first/model_card.md"],
}


def sections(page: str) -> dict[int, list[list[str]]]:
    """The commands of each numbered section, split as a shell does."""
    parts = re.split(r"^## (\d+)\. .*$", PAGES[page].read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {int(number): commands(text) for number, text in zip(parts[1::2], parts[2::2], strict=True)}


def commands(text: str) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


def run(folder: Path, typed: list[str]) -> None:
    less = [override for word, overrides in LESS.items() if word in typed for override in overrides]
    ended = train(folder, *typed, *less, patches=SMALLER)
    assert ended.returncode == 0, (typed, ended.stdout[-2000:], ended.stderr)
    assert ended.stderr == "", typed


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the first section, which later ones go on from."""
    folder = tmp_path_factory.mktemp("first")
    run(folder, FIRST)
    return folder / "outputs/first"


def test_both_pages_have_the_same_commands() -> None:
    assert sections("tutorial.md") == sections("tutorial.ja.md")
    assert sum(map(len, sections("tutorial.md").values())) > 15
    assert sections("tutorial.md").keys() == WRITTEN.keys()


@pytest.mark.parametrize("section", WRITTEN)
def test_every_command_of_a_section_runs_and_writes_what_the_section_names(
    tmp_path: Path, section: int, request: pytest.FixtureRequest
) -> None:
    typed = sections("tutorial.md")[section]
    if section in (9, 10):
        shutil.copytree(request.getfixturevalue("first"), tmp_path / "outputs/first")
    for words in typed:
        if words[1:3] == ["-m", "pytest"]:  # a part of this very suite
            assert (ROOT / words[3]).is_file()
            continue
        assert words[:2] == ["python", "train.py"]
        run(tmp_path, words[2:])
    for file in WRITTEN[section]:
        assert (tmp_path / "outputs" / file).is_file(), file


def test_the_first_section_starts_with_the_run_that_later_ones_go_on_from() -> None:
    assert sections("tutorial.md")[1][0] == ["python", "train.py", *FIRST]
