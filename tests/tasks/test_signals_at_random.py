"""SIGTERM and SIGINT at any instant: the run ends soon, saved, and goes on as if nothing had been."""

import random
import re
import shlex
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.command import results
from helpers.comparison import same_end, same_files
from helpers.forks import Forks, shared

COMMON = [
    "data=shapes", "data.size=12", "data.batch_size=32", "model=fashion_mnist", "model.hidden=[16]",
    "model.dropout=0.3", "optimizer=adam", "data.augmentation.shift=1", "device=cpu", "device.threads=1",
    "report=false",
]  # fmt: skip
# What takes the time, the file from whose appearance on a signal may come, and the share of the run's seconds
# of that name in which it does.
PHASES = {
    "training": (["data.images=1200", "data.val_size=64", "data.test_images=64", "trainer.max_epochs=4"],
                 "train.log", "total", 0.8),
    "validation": (["data.images=600", "data.val_size=300", "data.test_images=64", "trainer.max_epochs=2",
                    "data.eval_batch_size=1"], "checkpoints/last.ckpt", "fit", 0.4),
    "test": (["data.images=200", "data.val_size=40", "data.test_images=800", "trainer.max_epochs=1",
              "data.eval_batch_size=1"], "checkpoints/last.ckpt", "test", 0.8),
}  # fmt: skip
MOST = 12  # attempts: a busy machine may end a run before its signal comes
SOON = 60  # seconds, on a busy machine


@pytest.fixture
def forks() -> Forks:
    return shared()


def whole_run(forks: Forks, folder: Path, phase: str, *more: str) -> tuple[list[str], str, float]:
    """After an undisturbed run in ``whole``: what was typed, when a signal may come, and for how long."""
    choices, after, name, share = PHASES[phase]
    typed = [*COMMON, *choices, *more]
    ended = forks.run(folder, [*typed, "hydra.run.dir=whole"])
    assert ended["code"] == 0, (folder / "out.txt").read_text()
    return typed, after, share * results(folder / "whole")["seconds"][name]


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_ends_a_run_saved_and_the_line_that_it_prints_continues_it_to_the_bit(
    tmp_path: Path, phase: str, forks: Forks
) -> None:
    typed, after, lasts = whole_run(forks, tmp_path, phase)
    instants = random.Random(phase)
    seen: list[dict[str, Any]] = []
    for number in range(MOST):
        cut = tmp_path / f"cut{number}"
        sent = [signal.SIGTERM, signal.SIGINT][number % 2]
        ended = forks.run(
            tmp_path, [*typed, f"hydra.run.dir={cut.name}"], instants.uniform(0, lasts),
            after=f"{cut.name}/{after}", signal=sent, err=f"err{number}.txt",
        )  # fmt: skip
        said = (tmp_path / f"err{number}.txt").read_text()
        assert ended["code"] == 130 or (ended["code"], results(cut)["status"]) == (0, "completed"), said
        assert "Traceback" not in said
        if ended["code"] == 130:
            assert ended["from_signal"] < SOON
            seen.append(results(cut))
            assert seen[-1]["status"] == "interrupted"
            last = cut / "checkpoints/last.ckpt"
            if last.is_file():
                assert torch.load(last, weights_only=True)["global_step"] <= seen[-1]["steps"]
            else:  # in the first epoch's validation
                assert "steps from 1 on are done again" in (tmp_path / "out.txt").read_text()
            printed = re.findall(r"python \S*train\.py (resume=.*)", (tmp_path / "out.txt").read_text())
            assert printed[-1] == f"resume={cut.name}"
            ended = forks.run(tmp_path, shlex.split(printed[-1]))
        assert ended["code"] == 0, (tmp_path / "out.txt").read_text()
        assert same_end(tmp_path / "whole", cut)
        assert same_files(tmp_path / "whole", cut)
        assert not list(cut.rglob(".*.part"))
        in_validation = "are done again" in (tmp_path / "out.txt").read_text()  # of its epoch nothing was saved
        if len(seen) >= 3 and (phase != "validation" or in_validation):
            break
    else:
        raise AssertionError("too few signals came in time to say anything")
    if phase == "test":
        steps = results(tmp_path / "whole")["steps"]
        assert {(found["steps"], found["metrics"]["test/acc"]) for found in seen} == {(steps, None)}


def test_a_second_signal_ends_a_run_at_once_and_leaves_no_half_file(tmp_path: Path, forks: Forks) -> None:
    # Nearly always in the midst of a save.
    typed, after, lasts = whole_run(forks, tmp_path, "training", "checkpoint.every_n_steps=1")
    instants = random.Random("twice")
    left = 0
    for number in range(MOST):
        cut = tmp_path / f"cut{number}"
        ended = forks.run(
            tmp_path, [*typed, f"hydra.run.dir={cut.name}"], instants.uniform(0, lasts),
            after=f"{cut.name}/{after}", signal=signal.SIGINT, again=instants.uniform(0, 0.005),
            patches={"smallvision.core.system.ONE_SIGNAL": 0},
        )  # fmt: skip
        assert ended["code"] in (0, 130), (tmp_path / "out.txt").read_text()
        left += ended["code"] == 130
        assert ended["from_signal"] is None or ended["from_signal"] < 2 + lasts
        assert "Traceback" not in (tmp_path / "out.txt").read_text()
        assert not list(cut.rglob(".*.part"))
        for file in cut.glob("checkpoints/*.ckpt"):
            torch.load(file, weights_only=True)
        if ended["code"] == 130:
            begun = (cut / "config.yaml").is_file()
            ended = forks.run(tmp_path, [f"resume={cut.name}"] if begun else [*typed, f"hydra.run.dir={cut.name}"])
        complete = "nothing to continue" in (tmp_path / "out.txt").read_text()  # the second signal came after its end
        assert ended["code"] == 2 * complete, (tmp_path / "out.txt").read_text()
        assert same_end(tmp_path / "whole", cut)
        assert same_files(tmp_path / "whole", cut)
        if left == 3:
            break
    else:
        raise AssertionError("too few signals came in time to say anything")
