"""The callback by which a run of a sweep reports its metric and is pruned."""

import csv

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from smallvision.core.run_dir import RunDir
from smallvision.sweeps.study import Study, TrialRun


class PruneTrial(Callback):
    """After each epoch, reports the rows of the run's metrics.csv to the study and asks its pruner.

    An epoch is in metrics.csv once it is saved, which is before the next one starts: so what was reported can always
    be continued from, and a resumed run first reports what it had before. Raises Pruned.
    """

    def __init__(self, study: Study, run: TrialRun) -> None:
        self.study, self.run = study, run
        self.metrics_csv = RunDir(run.directory).metrics_csv

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._report()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._report()

    def _report(self) -> None:
        if not self.metrics_csv.is_file():  # before the first epoch
            return
        with self.metrics_csv.open(encoding="utf-8") as file:
            rows = [(int(row["epoch"]), row[self.study.plan.metric]) for row in csv.DictReader(file)]
        self.study.report(self.run, [(epoch, float(value)) for epoch, value in rows if value])
