"""Dropout draws from a stream named by (seed, "step", epoch, batch), so that it needs no saved state."""

from lightning.pytorch import Callback, LightningModule, Trainer

from smallvision.core.rng import seed_global


class KeyedRandomness(Callback):
    """Seeds torch's global generators before each training batch, and before the test."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        seed_global(pl_module.device, self.seed, "step", trainer.current_epoch, batch_idx)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        seed_global(pl_module.device, self.seed, "test")
