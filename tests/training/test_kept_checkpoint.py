"""From 0.2.0 on, what one version saved later versions read."""

from pathlib import Path

import pytest
import torch
from helpers.command import results
from helpers.forks import train
from helpers.kept_checkpoint import write_kept

from smallvision.core.errors import UserError
from smallvision.training.checkpoint import read_checkpoint
from smallvision.training.predictor import Predictor


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return write_kept(tmp_path)


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


@pytest.mark.parametrize("extra", ["network.2.weight", "network.0.weight", "network.1.weight.x", "whiten.kernel", "x"])
def test_a_tensor_that_its_model_lacks_is_refused(kept: Path, extra: str) -> None:
    content = torch.load(kept, weights_only=True)
    content["state_dict"][f"predictor.{extra}"] = torch.zeros(1)
    torch.save(content, kept)
    checkpoint = read_checkpoint(kept)
    with pytest.raises(UserError, match=rf'do not fit its own config \(Unexpected key.*: "{extra}"\.\)$'):
        Predictor(checkpoint.spec, checkpoint.spec.make_network()).load_weights(checkpoint)


def test_the_command_line_refuses_it_too(kept: Path, tmp_path: Path) -> None:
    content = torch.load(kept, weights_only=True)
    content["state_dict"]["predictor.network.2.weight"] = torch.zeros(1)
    torch.save(content, kept)
    tested = train(tmp_path, "task=test", f"checkpoint={kept.name}", "report=false")
    assert tested.returncode == 2
    reason = 'Unexpected key(s) in state_dict: "network.2.weight".'
    assert tested.stderr == f"error: kept.ckpt: its weights do not fit its own config ({reason})\n"
