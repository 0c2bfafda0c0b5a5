"""Recorded losses: a change that should not matter must give them again (:func:`helpers.golden.assert_recorded`).

`SMALLVISION_RECORD=1 .venv/bin/python -m pytest tests/golden -n 0` records them anew: say why in the commit.
"""

from pathlib import Path

import pytest
import torch
from helpers.forks import train
from helpers.golden import Losses, assert_recorded

MODELS = {"mnist": (28, 1), "fashion_mnist": (28, 1), "cifar10": (32, 3)}


@pytest.mark.parametrize("model", MODELS)
def test_the_losses_are_the_recorded_ones(model, tmp_path):
    size, channels = MODELS[model]

    def losses(precision: str) -> Losses:
        """Training and validation loss of three epochs of a run by the command line, on one thread."""
        process = train(
            tmp_path, f"model={model}", "optimizer=adam", "data=shapes", f"data.size={size}",
            f"data.channels={channels}", "data.images=480", "data.val_size=96", "data.test_images=0",
            "data.batch_size=32", "data.augmentation.flip=true", "data.augmentation.shift=2", "trainer.max_epochs=3",
            "device=cpu", "device.threads=1", f"device.precision={precision}", "seed=0", "report=false",
            f"hydra.run.dir={precision}",
        )  # fmt: skip
        assert process.returncode == 0, process.stderr
        last = torch.load(tmp_path / precision / "checkpoints/last.ckpt", weights_only=True)
        history = last["callbacks"]["MetricsCSV"]["history"]
        return {name: [row[name] for row in history] for name in ("train/loss", "val/loss")}

    found = assert_recorded(Path(__file__).with_name(f"{model}.yaml"), losses)
    assert found["train/loss"][2] < found["train/loss"][0]
