"""device.compile=true: other code, the same training."""

import pytest
import torch
from helpers.command import results
from helpers.forks import train

# One size of batch: each takes its own compilation.
RUN = ("data=shapes", "data.images=84", "data.val_size=20", "data.test_images=20", "data.size=12",
       "data.batch_size=32", "model=cifar10", "model.widths=[8]", "model.depths=[0]", "device=cpu",
       "device.precision=32", "device.threads=1", "trainer.max_epochs=2", "report=false")  # fmt: skip


def test_a_compiled_run_learns_the_same_and_tells_how_long_it_took_to_compile(tmp_path):
    plain = train(tmp_path, *RUN, "hydra.run.dir=plain")
    compiled = train(tmp_path, *RUN, "device.compile=true", "hydra.run.dir=compiled",
                     env={"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")})  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    assert compiled.returncode == 0, compiled.stderr
    assert "channels last, compiled" in compiled.stdout
    assert "compiled   in " in compiled.stdout
    assert "compiled" not in plain.stdout
    metrics = [results(tmp_path / run)["metrics"] for run in ("plain", "compiled")]
    assert metrics[1] == pytest.approx(metrics[0], rel=1e-3)
    assert results(tmp_path / "compiled")["seconds"]["compile"] > 0
    weights = [
        torch.load(tmp_path / run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for run in ("plain", "compiled")
    ]
    assert list(weights[0]) == list(weights[1])
    counted = [name for name in weights[0] if name.endswith("num_batches_tracked")]
    assert all(weights[1][name] == weights[0][name] == 2 * 2 for name in counted)


def test_a_machine_without_a_compiler_is_told_so(tmp_path):
    nothing = {"PATH": "", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    process = train(tmp_path, *RUN, "device.compile=true", env=nothing)
    assert process.returncode == 2
    assert process.stderr.startswith("error: device.compile=true: torch cannot compile this network here")
