"""What a user sees of training: a row per epoch, and on a terminal a bar."""

import time
from collections.abc import Iterable
from datetime import timedelta

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.types import STEP_OUTPUT
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar
from rich.table import Column
from torch import Tensor

from smallvision.core.console import Console
from smallvision.core.results import Row, metrics_of
from smallvision.data.loader import Batch, BatchLoader
from smallvision.training.callbacks import AfterEpoch, find_callback, loss_of, within_epoch
from smallvision.training.callbacks.checkpointing import Checkpointing
from smallvision.training.callbacks.compile import Compiler
from smallvision.training.callbacks.epoch_timer import EpochTimer
from smallvision.training.callbacks.metrics_csv import MetricsCSV

REFRESH_SECONDS = 0.1
MAX_METRICS = 5  # of the table


class Progress(AfterEpoch):
    """A row per epoch, and per validation within one; on a terminal a bar below it for the batches of the epoch under
    way, with the running loss, the learning rate, and the time left of the epoch and of the run.

    The first batch of an epoch and every ``log_every_n_batches``-th after it also print their loss: no other step
    waits for its loss. Comes after :class:`Checkpointing`.
    """

    def __init__(self, console: Console, max_epochs: int, log_every_n_batches: int | None = None) -> None:
        self.console, self.epochs, self.log_every = console, max_epochs, log_every_n_batches
        self.progress: Bar | None = None
        self._shown = self._began = 0.0
        self._batches = 0  # of this process
        self._loss = RunningLoss()
        self._monitor: str | None = None
        self._widths: dict[str, int] = {}  # of the columns of metrics

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.should_stop:
            return
        compiler = find_callback(trainer, Compiler)
        if compiler is not None and compiler.seconds is not None:
            self.console.fields({"compiled": f"in {compiler.seconds:.1f} s"})
        self.console.print()
        metrics = find_callback(trainer, MetricsCSV)
        checkpointing = find_callback(trainer, Checkpointing)
        self._monitor = None if checkpointing is None else checkpointing.monitor
        if metrics is not None and metrics.metrics is not None:
            self._begin_table(metrics.metrics)
        if self.console.terminal.is_terminal and not self.console.silent:
            self.progress = Bar(
                TextColumn("  {task.description}"),
                BarColumn(bar_width=None, table_column=Column(ratio=1)),
                MofNCompleteColumn(),
                TextColumn("{task.fields[status]}"),
                expand=True,
                console=self.console.terminal,
                transient=True,
                refresh_per_second=10,
            )
            self.progress.start()
            self.task = self.progress.add_task("", total=None, status="")
            self._began = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.progress is not None:
            total = int(trainer.num_training_batches)
            self.progress.reset(self.task, total=total, description=f"epoch {self._epoch(trainer)}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int
    ) -> None:
        if self.log_every is not None and batch_idx % self.log_every == 0:
            self._print_loss(trainer, outputs, len(batch[1]), batch_idx)
        self._batches += 1
        if self.progress is None or (now := time.perf_counter()) - self._shown < REFRESH_SECONDS:
            return
        self._shown = now
        loss = loss_of(outputs)
        if loss is not None:
            self._loss.update(loss.detach() * trainer.accumulate_grad_batches)  # Lightning has divided it
        epoch = f"epoch {self._epoch(trainer)}"  # after a validation
        status = self._status(trainer, int(trainer.num_training_batches) - batch_idx - 1)
        self.progress.update(self.task, completed=batch_idx + 1, description=epoch, status=status)

    def _epoch(self, trainer: Trainer) -> str:
        return f"{trainer.current_epoch + 1}/{self.epochs}"

    def _status(self, trainer: Trainer, left: int) -> str:
        """The running loss, the rate, and the time that ``left`` batches of the epoch and all of the run will take."""
        in_run = left + (self.epochs - trainer.current_epoch - 1) * int(trainer.num_training_batches)
        if trainer.max_steps > 0:
            in_run = min(in_run, (trainer.max_steps - trainer.global_step) * trainer.accumulate_grad_batches)
        seconds = (time.perf_counter() - self._began) / self._batches
        in_epoch, in_all = (timedelta(seconds=round(seconds * count)) for count in (min(left, in_run), in_run))
        rate = trainer.optimizers[0].param_groups[0]["lr"] if trainer.optimizers else None
        parts = ["" if self._loss.mean is None else f"loss {self._loss.mean:.4g}"]
        parts += [f"lr {rate:.2g}" if isinstance(rate, float) else "", f"{in_epoch} of {in_all} left"]
        return " ".join(filter(None, parts))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.progress is not None:
            self.progress.update(self.task, description=f"epoch {self._epoch(trainer)}, validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = find_callback(trainer, MetricsCSV)
        if metrics is not None and within_epoch(trainer):
            self._print_row(metrics.within[-1], f"step {trainer.global_step:,}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics, timer = find_callback(trainer, MetricsCSV), find_callback(trainer, EpochTimer)
        if metrics is None or timer is None:
            return
        row, checkpointing = metrics.history[-1], find_callback(trainer, Checkpointing)
        mark = "  best" if checkpointing is not None and checkpointing.best is row else ""
        self._print_row(row, f"{timer.images_per_second:,.0f}", mark)

    def _print_row(self, row: Row, last: str, mark: str = "") -> None:
        metrics = metrics_of(row)  # those of a module of the user's own are known only now
        names = dict.fromkeys([*self._widths, *(name for name in (self._monitor,) if name in metrics), *metrics])
        if len(self._widths) < min(len(names), MAX_METRICS):
            self._begin_table(names)
        cells = [f"{row['epoch']:>4.4g}/{self.epochs:<3}"]
        for name, width in self._widths.items():
            value = row.get(name)
            cells.append(f"{'-' if value is None else format(value, '.4f'):>{width}}")
        self.console.print(f"{' '.join(cells)} {last:>10}{mark}")

    def _begin_table(self, metrics: Iterable[str]) -> None:
        """Print the head of a table of the first of these metrics."""
        names = [*metrics][:MAX_METRICS]
        self._widths = {name: max(10, len(name)) for name in names[:-1]} | {names[-1]: max(9, len(names[-1]))}
        head = " ".join(f"{name:>{width}}" for name, width in self._widths.items())
        self.console.print(f"   epoch {head}   images/s", style="bold")

    def _print_loss(self, trainer: Trainer, outputs: STEP_OUTPUT, images: int, batch_idx: int) -> None:
        """The loss of a batch and how many of the epoch's images have been seen by its end."""
        loader, loss = trainer.train_dataloader, loss_of(outputs)
        if loss is not None and isinstance(loader, BatchLoader):
            value = loss.item() * trainer.accumulate_grad_batches  # Lightning has divided it
            seen = batch_idx * loader.batch_size + images * trainer.world_size
            self.console.print(f"loss: {value:>7f}  [{seen:>5d}/{len(loader.indices):>5d}]")

    def on_train_end(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException | None = None
    ) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    on_exception = on_train_end


class RunningLoss:
    """A mean of recent losses, for which no step waits: a CUDA GPU's loss is copied, and read once it has arrived."""

    mean: float | None = None
    _copy: Tensor | None = None
    _arrived: torch.cuda.Event | None = None

    def update(self, loss: Tensor) -> None:
        if self._arrived is not None and not self._arrived.query():
            return
        if self._copy is not None:
            latest = float(self._copy)
            self.mean = latest if self.mean is None else 0.8 * self.mean + 0.2 * latest
        self._copy = loss.to("cpu", non_blocking=loss.is_cuda)
        if loss.is_cuda:
            self._arrived = torch.cuda.Event()
            self._arrived.record()
