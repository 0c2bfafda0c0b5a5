"""From 0.2.0 on, what one version saved later versions read."""

import base64
import zlib
from pathlib import Path

import pytest
import torch
from helpers.command import results
from helpers.forks import train
from helpers.kept_checkpoint import BEST_CKPT

from smallvision.training.checkpoint import read_checkpoint
from smallvision.training.predictor import Predictor


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    file = tmp_path / "kept.ckpt"
    file.write_bytes(zlib.decompress(base64.b64decode(BEST_CKPT)))
    return file


def test_a_checkpoint_of_0_2_0_still_holds_its_model(kept: Path) -> None:
    checkpoint = read_checkpoint(kept)
    assert checkpoint.spec.shape == (1, 6, 6)
    assert checkpoint.spec.model["_target_"] == "smallvision.models.Linear"
    assert (checkpoint.epoch, checkpoint.step, checkpoint.dataset["name"]) == (1, 1, "shapes")
    predictor = Predictor(checkpoint.spec, checkpoint.spec.make_network())
    predictor.load_weights(checkpoint)
    probabilities = predictor.eval()(torch.zeros(3, 1, 6, 6, dtype=torch.uint8))
    assert torch.allclose(probabilities.sum(1), torch.ones(3))


def test_a_checkpoint_of_0_2_0_still_has_its_test_metrics(kept: Path, tmp_path: Path) -> None:
    tested = train(tmp_path, "task=test", f"checkpoint={kept.name}", "report=false", "hydra.run.dir=tested")
    assert tested.returncode == 0, tested.stderr
    assert "note" not in tested.stdout  # the images are those that it learned from
    metrics = results(tmp_path / "tested")["metrics"]
    assert metrics["test/acc"] == pytest.approx(0.55)
    assert metrics["test/loss"] == pytest.approx(0.890194320678711, rel=1e-4)
