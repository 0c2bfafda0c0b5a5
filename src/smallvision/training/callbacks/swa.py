"""Stochastic weight averaging."""

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from smallvision.core.errors import UserError


class SWA(WeightAveraging):
    """Validation, the test and ``state_dict`` of each checkpoint have the mean of the weights after each step from the
    share ``start`` of all steps on; before that, the weights themselves.

    Source: P. Izmailov et al., arXiv:1803.05407, by steps rather than epochs and with the run's own schedule.
    (Lightning's StochasticWeightAveraging takes over only after the last epoch was validated and saved.)
    """

    def __init__(self, start: float = 0.75) -> None:
        super().__init__()
        if not 0 <= start < 1:
            raise UserError(f"callbacks.swa.start={start}: must be a number at least 0 and below 1")
        self.start, self.first_step = start, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.first_step = int(self.start * trainer.estimated_stepping_batches)

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        if step_idx is not None and step_idx <= self.first_step and self._average_model is not None:
            self._average_model.n_averaged.zero_()  # so that the mean begins anew, with this step's weights
        return step_idx is not None
