"""Recorded losses: a change that should not matter must give them again, exactly.

The records name the machine and torch that made them. On the same kind of machine the losses must be
equal to the last bit; elsewhere other instructions round otherwise, and they must agree to 1 in 1,000.
`SMALLVISION_RECORD=1 .venv/bin/python -m pytest tests/golden -n 0` records them anew: say why in the commit.
"""

import os
from pathlib import Path

import pytest
import torch
import yaml
from helpers.forks import train

from smallvision.training.device import hardware

MODELS = {"mnist": (28, 1), "fashion_mnist": (28, 1), "cifar10": (32, 3)}


def losses(model: str, folder: Path) -> dict[str, list[float]]:
    """Training and validation loss of three epochs of a run by the command line, on one thread."""
    size, channels = MODELS[model]
    process = train(
        folder, f"model={model}", "optimizer=adam", "data=shapes", f"data.size={size}",
        f"data.channels={channels}", "data.images=480", "data.val_size=96", "data.test_images=0",
        "data.batch_size=32",
        "data.augmentation.flip=true", "data.augmentation.shift=2", "trainer.max_epochs=3", "device=cpu",
        "device.threads=1", "device.precision=32", "seed=0", "report=false", "hydra.run.dir=run",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    history = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)["callbacks"]["MetricsCSV"]["history"]
    return {name: [row[name] for row in history] for name in ("train/loss", "val/loss")}


@pytest.mark.parametrize("model", MODELS)
def test_the_losses_are_the_recorded_ones(model, tmp_path):
    file = Path(__file__).with_name(f"{model}.yaml")
    machine = f"{hardware('cpu')}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    found = losses(model, tmp_path)
    if os.environ.get("SMALLVISION_RECORD"):
        file.write_text(yaml.safe_dump({"machine": machine, **found}, sort_keys=False))
    recorded = yaml.safe_load(file.read_text())
    if recorded.pop("machine") == machine:
        assert found == recorded
    else:
        assert {name: pytest.approx(values, rel=1e-3) for name, values in recorded.items()} == found
    assert found["train/loss"][2] < found["train/loss"][0]
