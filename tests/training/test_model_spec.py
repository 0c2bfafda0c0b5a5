"""A config that asks for a network beyond its weights is refused before the network takes memory."""

import time

import pytest
import torch
from helpers.forks import train
from helpers.kept_checkpoint import write_kept
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
def test_a_checkpoint_whose_config_was_blown_up_is_refused(tmp_path, task):
    kept = write_kept(tmp_path)
    checkpoint = torch.load(kept, weights_only=True)
    larger = {"name": "mlp", "_target_": "smallvision.models.MLP", "hidden": [10**6, 10**6], "dropout": 0.0}
    checkpoint["smallvision"]["config"]["model"] = larger
    torch.save(checkpoint, kept)
    (tmp_path / "a.png").write_text("no image")
    process = train(tmp_path, f"task={task}", f"checkpoint={kept.name}", *(["images=a.png"] * (task == "predict")))
    assert process.returncode == 2
    assert process.stderr == "error: model=mlp: larger than the weights in the file\n"
