"""The LightningModule: a Predictor's network, its loss, its optimizer and its metrics."""

from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.types import LRSchedulerConfigType, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import Metric

from smallvision.config import targets
from smallvision.config.schema import Config
from smallvision.data.loader import Batch
from smallvision.training.checkpoint import read_checkpoint
from smallvision.training.predictor import Predictor


class Classifier(pl.LightningModule):
    """Images uint8 N x C x H x W in, logits N x classes out; validation and test average test-time views.

    ``make_optimizer``: from the network to its optimizer; ``make_scheduler``: from that and the number of steps to its
    schedule; ``loss`` and, in validation and test, ``eval_loss``: of logits and labels, cross-entropy where there is
    none. Testing needs none of them.
    """

    def __init__(
        self,
        predictor: Predictor,
        make_optimizer: Callable[[nn.Module], Optimizer] | None = None,
        make_scheduler: Callable[[Optimizer, int], LRSchedulerConfigType] | None = None,
        loss: nn.Module | None = None,
        eval_loss: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.predictor = predictor
        self.loss, self.eval_loss = loss or nn.CrossEntropyLoss(), eval_loss or nn.CrossEntropyLoss()
        self.make_optimizer, self.make_scheduler = make_optimizer, make_scheduler
        self.train_metrics, self.eval_metrics = LossAndAccuracy(), LossAndAccuracy()
        self.train_metrics.persistent(True)  # a checkpoint within an epoch carries its sums

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls, checkpoint_path: str | Path, map_location: torch.device | str = "cpu", use: Sequence[str] = ()
    ) -> "Classifier":
        """That of a run's checkpoint; ``use``: packages of the user's own code. Raises UserError for other files."""
        targets.use(use)
        checkpoint = read_checkpoint(Path(checkpoint_path))
        return cls(Predictor.with_weights(checkpoint, Config.from_dict(checkpoint.config))).to(map_location)

    def forward(self, images: Tensor) -> Tensor:
        return self.predictor.logits(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self(images)
        loss: Tensor = self.loss(logits, labels)
        self.train_metrics.update(loss, logits, labels)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Probabilities, float32, N x classes."""
        return self._evaluate(batch).float().softmax(-1)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        assert self.make_optimizer is not None
        assert self.make_scheduler is not None
        optimizer = self.make_optimizer(self.predictor.network)
        steps = max(int(self.trainer.estimated_stepping_batches), 1)
        return {"optimizer": optimizer, "lr_scheduler": self.make_scheduler(optimizer, steps)}

    def on_train_epoch_start(self) -> None:
        self.train_metrics.reset()  # not where a run goes on within an epoch

    def on_train_epoch_end(self) -> None:
        self._log("train", self.train_metrics)

    def on_validation_epoch_end(self) -> None:
        self._log("val", self.eval_metrics)
        self.eval_metrics.reset()

    def on_test_epoch_end(self) -> None:
        self._log("test", self.eval_metrics)
        self.eval_metrics.reset()

    def _evaluate(self, batch: Batch) -> Tensor:
        images, labels = batch
        if not len(labels):  # other processes have the last images
            return torch.empty(0)
        logits = self.predictor.mean_logits(images)
        self.eval_metrics.update(self.eval_loss(logits, labels), logits, labels)
        return logits

    def _log(self, part: str, metrics: "LossAndAccuracy") -> None:
        self.log_dict({f"{part}/{name}": value for name, value in metrics.compute().items()})

    def __setattr__(self, name: str, value: Tensor | nn.Module) -> None:
        """Lightning sets one attribute forty times a step, and ``nn.Module`` checks each time whether it is a
        parameter, which takes 2 % of a step of model=mnist.
        """
        if name == "_current_fx_name":
            self.__dict__[name] = value
        else:
            super().__setattr__(name, value)


class LossAndAccuracy(Metric):
    """The mean loss and the fraction of correct predictions over every image seen since the last reset.

    Sums stay on the device: nothing is pulled to the host before :meth:`compute`. Across processes the
    sums are added, so uneven parts weigh as they should.
    """

    full_state_update = False
    loss: Tensor
    correct: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("loss", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """``loss``: mean over the batch; ``logits``: N x classes; ``labels``: N."""
        count = len(labels)
        if count:
            # In place: to set a module's attribute takes longer than to add.
            self.loss.add_(loss.detach() * count)
            self.correct.add_((logits.detach().argmax(1) == labels).sum())
            self.count.add_(count)

    def compute(self) -> dict[str, Tensor]:
        """``loss`` and ``acc``, float64 on the CPU; NaN before any image."""
        count = self.count.cpu().double()
        return {"loss": self.loss.cpu() / count, "acc": self.correct.cpu() / count}
