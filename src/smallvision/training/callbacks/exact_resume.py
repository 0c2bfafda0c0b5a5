"""A continued run goes on at the next batch, with the arguments of its config, as if it had never stopped."""

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch.optim.lr_scheduler import LambdaLR

from smallvision.data.loader import BatchLoader
from smallvision.training.checkpoint import Checkpoint
from smallvision.training.resume import validate_optimizers, validate_resume


class ExactResume(Callback):
    """Keeps the loader's position in the checkpoint, and checks a checkpoint before anything is taken from it.

    Optimizers keep their state but take their arguments (lr, weight decay, ...) from the config, which may have
    changed; so do schedules of the step's number (LambdaLR). ``checkpoint``: the one to continue from; None for a run
    from the start. Raises UserError where it does not fit the run.
    """

    def __init__(self, checkpoint: Checkpoint | None = None) -> None:
        self.checkpoint = None if checkpoint is None else checkpoint.raw
        self.file = "" if checkpoint is None else str(checkpoint.path)
        self._groups: list[list[dict[str, Any]]] = []

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        loader = trainer.train_dataloader
        position = loader.state_dict() if isinstance(loader, BatchLoader) else None
        checkpoint.setdefault("smallvision", {})["position"] = position

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self.checkpoint is not None and stage == "fit":
            validate_resume(self.checkpoint, self.file, trainer, pl_module)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The optimizers have been made from the config and not yet been restored."""
        if self.checkpoint is not None:
            validate_optimizers(self.checkpoint, self.file, trainer)
        self._groups = [
            [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
            for optimizer in trainer.optimizers
        ]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Lightning itself restores a loader's position only if nothing asked for the loader before, and the number
        of steps, which the schedule needs, asks for it.
        """
        if self.checkpoint is None:
            return
        for optimizer, groups in zip(trainer.optimizers, self._groups, strict=True):
            for group, arguments in zip(optimizer.param_groups, groups, strict=True):
                group.update(arguments)
        for scheduler in (config.scheduler for config in trainer.lr_scheduler_configs):
            if isinstance(scheduler, LambdaLR):
                scheduler.base_lrs = [group["initial_lr"] for group in scheduler.optimizer.param_groups]
                scheduler.last_epoch = trainer.global_step
                for group, rate in zip(scheduler.optimizer.param_groups, scheduler.get_lr(), strict=True):
                    group["lr"] = rate
        loader, position = trainer.train_dataloader, self.checkpoint["smallvision"]["position"]
        if isinstance(loader, BatchLoader) and position is not None:
            loader.load_state_dict(position)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Not called where a run goes on within an epoch."""
        loader = trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            loader.start_epoch(trainer.current_epoch)
