"""The loss of every step is kept, and no step waits for it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from smallvision.core.run_dir import RunDir
from smallvision.training.callbacks.step_metrics import MAX_PENDING, StepMetrics

TRAINER = SimpleNamespace(current_epoch=1, num_training_batches=4)
OPTIMIZER = SimpleNamespace(param_groups=[{"lr": 0.5}])


def test_no_step_pulls_its_loss_to_the_host(tmp_path):
    metrics = StepMetrics(RunDir(tmp_path))
    for batch in range(2 * MAX_PENDING + 1):
        metrics.on_before_optimizer_step(TRAINER, None, OPTIMIZER)
        metrics.on_train_batch_end(TRAINER, None, {"loss": torch.empty((), device="meta")}, None, batch)
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):  # a meta tensor has no value to pull
        metrics.on_save_checkpoint(TRAINER, None, {})


def test_accumulated_batches_are_one_step_and_a_checkpoint_carries_all_steps(tmp_path):
    metrics, checkpoint = StepMetrics(RunDir(tmp_path)), {}
    for batch in range(4):
        if batch % 2:
            metrics.on_before_optimizer_step(TRAINER, None, OPTIMIZER)
        metrics.on_train_batch_end(TRAINER, None, {"loss": torch.tensor(batch / 2)}, None, batch)
    metrics.on_save_checkpoint(TRAINER, None, checkpoint)
    continued = StepMetrics(RunDir(tmp_path))
    continued.on_load_checkpoint(TRAINER, None, checkpoint)
    continued.on_train_epoch_end(TRAINER, None)
    steps = np.load(tmp_path / "steps.npy")
    assert steps.tolist() == [(1.5, 0.5, 0.5), (2.0, 2.5, 0.5)]
