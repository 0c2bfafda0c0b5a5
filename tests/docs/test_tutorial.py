"""Every command of the tutorial pages runs, in their order, in one folder, on stand-in images."""

import re
import shlex
from pathlib import Path

import pytest
from helpers.command import TRAIN
from helpers.forks import train

ROOT = TRAIN.parent
PAGES = {name: ROOT / "docs" / name for name in ("tutorial.md", "tutorial.ja.md")}
# Appended where a command would take minutes: the same command, on less.
LESS = {
    "task=bench": ["bench.rounds=1", "bench.seconds=0.02"],
    "-m": ["trainer.limit_train_batches=4", "trainer.limit_val_batches=1"],
    "experiment=tutorial_cifar10": ["trainer.limit_train_batches=2", "trainer.limit_val_batches=1",
                                    "trainer.limit_test_batches=1", "data.eval_batch_size=50"],
    "experiment=tutorial_fashion": ["trainer.limit_train_batches=0.2"],
}  # fmt: skip


def commands(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line.strip()]


def test_both_pages_have_the_same_commands():
    english, japanese = (commands(page) for page in PAGES.values())
    assert len(english) > 15
    assert english == japanese


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_names_is_there(name):
    text = PAGES[name].read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert (PAGES[name].parent / target).exists(), target


def test_every_command_does_what_it_says(tmp_path):
    for words in commands(PAGES["tutorial.md"]):
        if words[1:3] == ["-m", "pytest"]:  # a part of this very suite
            assert (ROOT / words[3]).is_file()
            continue
        assert words[:2] == ["python", "train.py"]
        less = [less for mark, more in LESS.items() if mark in words for less in more]
        ended = train(tmp_path, *words[2:], *less)  # of a key that is typed twice, the latter counts
        assert ended.returncode == 0, (words, ended.stdout[-2000:], ended.stderr)
        assert ended.stderr == "", words
    for made in (
        "first/report.html", "first/model.pt", "comparison.html", "adam_slower/results.json",
        "cifar10/report.html",
        "bench/bench.png", "fashion_test/results.json", "descent/descent.png", "ravine/descent.png",
        "sweeps/rates/sweep.html", "first/model.onnx", "first/model_card.md",
    ):  # fmt: skip
        assert (tmp_path / "outputs" / made).is_file(), made
