"""A config that asks for a network beyond its weights is refused before the network takes memory."""

import shutil
import time

import pytest
import torch
from helpers.forks import train
from torch import nn

from smallvision.training.model_spec import no_larger_than

SHAPES = [(20, 10), (20,)]


def test_what_the_weights_can_fill_is_built():
    with no_larger_than(SHAPES):
        nn.Linear(10, 20)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Linear(10**7, 10**7),
        lambda: nn.Sequential(*(nn.Linear(1, 1) for _ in range(10**9))),
    ],
    ids=["wide", "endless"],
)
def test_what_they_cannot_is_refused_at_once(make):
    began = time.process_time()
    with pytest.raises(ValueError, match="larger than the weights"), no_larger_than(SHAPES), torch.device("meta"):
        make()
    assert time.process_time() - began < 5


def test_afterwards_anything_may_be_built_again():
    with no_larger_than([(1,)]):
        pass
    assert nn.Linear(100, 100).weight.numel() == 10_000


@pytest.mark.parametrize("task", ["test", "predict"])
def test_a_checkpoint_whose_config_was_blown_up_is_refused(finished, tmp_path, task):
    folder, _ = finished
    checkpoint = torch.load(folder / "run/checkpoints/best.ckpt", weights_only=True)
    checkpoint["smallvision"]["config"]["model"]["widths"] = [10**6, 10**6]
    torch.save(checkpoint, tmp_path / "large.ckpt")
    shutil.copy(folder / "run/report.html", tmp_path / "a.png")
    process = train(tmp_path, f"task={task}", "checkpoint=large.ckpt", *(["images=a.png"] * (task == "predict")))
    assert process.returncode == 2
    assert process.stderr == "error: model=mnist: larger than the weights in the file\n"
