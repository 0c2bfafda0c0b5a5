"""The LightningModule: one network, its normalisation, its loss and its optimizer."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from smallvision.core.rng import seed_global
from smallvision.data.loader import Batch, BatchLoader
from smallvision.training.metrics import LossAndAccuracy, in_order
from smallvision.training.predictor import Predictor
from smallvision.training.resume import state_after_a_step, validate_resume
from smallvision.training.schedules import LRLambda, at_step

MakeOptimizer = Callable[[nn.Module], Optimizer]


class Classifier(pl.LightningModule):
    """Images uint8 N x C x H x W in, logits N x classes out.

    Validation and test take the mean over the ``predictor``'s test-time views. ``make_optimizer`` and ``factor``
    (see schedules) are needed for training only. ``plain`` is carried by every checkpoint under "smallvision".
    ``figures`` holds the latest epoch's ("val/acc" and so on), ``tested`` the latest test's probabilities
    (float32, N x classes, in the order of the images). Dropout draws from (seed, "step", epoch, batch).
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        label_smoothing: float = 0.0,
        make_optimizer: MakeOptimizer | None = None,
        factor: LRLambda | None = None,
        seed: int = 0,
        plain: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.predictor, self.label_smoothing = predictor, label_smoothing
        self.make_optimizer, self.factor = make_optimizer, factor
        self.seed = seed
        self.plain = plain or {}
        self.train_figures, self.eval_figures = LossAndAccuracy(), LossAndAccuracy()
        self.figures: dict[str, float] = {}
        self.tested = torch.empty(0)
        self._tested: list[Tensor] = []
        self._position: dict[str, int] | None = None

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor.logits(images)

    # Training -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        assert self.make_optimizer is not None
        optimizer = self.make_optimizer(self.predictor.network)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def on_train_start(self) -> None:
        """After a resume: go to the next batch, and take the arguments from the config, which may be new.

        Lightning itself restores a loader's position only if nothing asked for the loader before, and
        the number of steps, which the schedule needs, asks for it.
        """
        assert self.factor is not None
        self.factor_at = at_step(self.factor, max(int(self.trainer.estimated_stepping_batches), 1))
        loader = self.trainer.train_dataloader
        if isinstance(loader, BatchLoader) and self._position is not None:
            loader.load_state_dict(self._position)
            self._position = None
        for optimizer in self.trainer.optimizers:
            fresh = self.configure_optimizers()
            for group, new in zip(optimizer.param_groups, fresh.param_groups, strict=True):
                group.update({name: value for name, value in new.items() if name != "params"})

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Callable[[], Any] | None = None
    ) -> None:
        """One step at the rates of its number, which is all that a schedule goes by."""
        factor = self.factor_at(self.trainer.global_step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)

    def on_train_epoch_start(self) -> None:
        self.train_figures.reset()
        loader = self.trainer.train_dataloader
        if isinstance(loader, BatchLoader):
            loader.start_epoch(self.current_epoch)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        seed_global(self.device, self.seed, "step", self.current_epoch, batch_idx)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss = F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)
        self.train_figures.update(loss, logits, labels)
        return loss

    def on_train_epoch_end(self) -> None:
        self._report("train", self.train_figures)
        self.figures["lr"] = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        self.log("lr", self.figures["lr"])

    # Validation and test ------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.eval_figures.reset()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        if len(labels):
            self._judge(images, labels)

    def on_validation_epoch_end(self) -> None:
        self._report("val", self.eval_figures)

    def on_test_epoch_start(self) -> None:
        self.eval_figures.reset()
        self.tested, self._tested = torch.empty(0), []

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        answers = self._judge(images, labels).float().softmax(1) if len(labels) else self.tested
        self._tested.append(answers)

    def on_test_epoch_end(self) -> None:
        self._report("test", self.eval_figures)
        self.tested = in_order(self._tested, self.trainer.world_size)

    def _judge(self, images: Tensor, labels: Tensor) -> Tensor:
        """Logits, N x classes, counted in the figures."""
        logits = self.predictor.mean_logits(images)
        self.eval_figures.update(F.cross_entropy(logits, labels), logits, labels)
        return logits

    def _report(self, part: str, figures: LossAndAccuracy) -> None:
        """Keep an epoch's figures in full precision; Lightning, which rounds them to float32, hears them."""
        computed = {f"{part}/{name}": value for name, value in figures.compute().items()}
        self.figures |= {name: value.item() for name, value in computed.items()}
        self.log_dict({name: value.float() for name, value in computed.items()})

    # What Lightning need not do -----------------------------------------------------------------------

    def __setattr__(self, name: str, value: Any) -> None:
        """Lightning notes the name of each of its hooks here, forty times a step; a module need not look
        each time whether that is a parameter.
        """
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The loader's batches lie there already."""
        return batch

    # Checkpoints --------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        loader = self.trainer.train_dataloader
        position = loader.state_dict() if isinstance(loader, BatchLoader) else None
        progress = {"epoch_sums": self.train_figures.sums(), "position": position}
        checkpoint["smallvision"] = {**self.plain, **progress}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raises UserError where the file does not fit this model and its optimizer."""
        assert self.make_optimizer is not None
        after_a_step = state_after_a_step(self.make_optimizer, self.predictor.network)
        validate_resume(checkpoint, self.trainer, self, self.train_figures.sums(), after_a_step)
        self.train_figures.restore(checkpoint["smallvision"]["epoch_sums"])
        self._position = checkpoint["smallvision"]["position"]
