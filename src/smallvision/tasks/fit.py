"""Train, choose the best epoch by validation, and test its checkpoint once."""

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import Interrupted, LostProcess, Pruned, UserError
from smallvision.core.results import EpochSeconds, Results, Row, Seconds, metrics_of
from smallvision.core.run_dir import RunDir, assign, command, installed, using
from smallvision.core.system import STOP
from smallvision.tasks import common
from smallvision.tasks.report_data import write_report
from smallvision.training import loggers, state_dict
from smallvision.training.callbacks import find_callback
from smallvision.training.callbacks.checkpointing import Checkpointing
from smallvision.training.callbacks.compile import Compiler
from smallvision.training.callbacks.epoch_timer import EpochTimer
from smallvision.training.callbacks.keep_probabilities import KeepProbabilities
from smallvision.training.callbacks.metrics_csv import MetricsCSV
from smallvision.training.callbacks.terminate_on_nan import explain_out_of_memory, explain_refusal
from smallvision.training.checkpoint import BareWeights, Checkpoint, newest, read_checkpoint
from smallvision.training.factory import Experiment, load_module, make_callbacks, make_trainer
from smallvision.training.processes import Group, joined

C = TypeVar("C", bound=Callback)


def run(
    config: Config,
    run_dir: RunDir | None,
    checkpoint: Checkpoint | BareWeights | None,
    callbacks: Sequence[Callback] = (),
) -> Results:
    """Train in ``run_dir``, from the start or from its newest checkpoint; ``callbacks``: further ones."""
    assert run_dir is not None
    with joined(config, run_dir) as group:
        return _run(config, run_dir, callbacks, group)


def _run(config: Config, run_dir: RunDir, callbacks: Sequence[Callback], group: Group) -> Results:
    console = Console()
    STOP.loading = STOP.loading and group.world_size == 1
    logger = loggers.make_logger(config.logger, run_dir.path)
    last, damaged = group.from_first(partial(newest, run_dir.checkpoints))
    experiment = common.make_shared_experiment(config, group, pretrained=last is None)
    weights_file = group.from_first(partial(state_dict.target, config.save_model, run_dir.path))
    if last is not None:
        check_continuation(config, experiment, run_dir, last)
        config = with_continuation(config, last)
    times_tested = 0
    with suppress(UserError):  # a run from the start, or killed before, has none
        before = Results.read(run_dir.results_json)
        run_dir.seconds_before, times_tested = before.seconds.total or 0.0, before.times_tested
    trainer = make_trainer(
        config,
        experiment.device,
        run_dir.path,
        [*make_callbacks(config, experiment, run_dir, console, last), *callbacks],
        logger,
        last,
        group,
    )
    STOP.loading = False
    group.from_first(partial(run_dir.describe, config.to_dict(), experiment.device.hardware))
    common.results(config, experiment, run_dir, "running").write(run_dir)
    common.summary(console, config, experiment, run_dir)
    if last is not None:
        console.fields({"continuing": f"{last.path}, after {last.step:,} steps"})
    for message in damaged:
        console.print(f"  damaged    {message}; going on from {last.path if last else None}", style="bold yellow")
    if last is not None and run_dir.stop_requested():  # that was for the process before
        run_dir.stop_file.unlink()
        console.print(f"  removed    {run_dir.stop_file}, which stopped the run before", style="yellow")
    fit = Fit(config, experiment, run_dir, trainer, console)
    fit.times_tested = times_tested
    try:
        with group.explain_lost_process(), explain_out_of_memory(config), explain_refusal():
            trainer.fit(
                experiment.model, datamodule=experiment.data, ckpt_path=last.path if last else None, weights_only=True
            )
        if fit.checkpointing.best is not None:
            best = group.from_first(partial(read_checkpoint, run_dir.best_checkpoint))
            if config.test and experiment.data.sizes["test"] and experiment.has_test:
                with group.explain_lost_process():
                    fit.test(best)
            if weights_file is not None and run_dir.is_writer and experiment.predictor is not None:
                fit.save_weights(best, weights_file)
        fit.status = "completed"
    except Pruned:
        fit.status = "pruned"
    except Interrupted:
        fit.status = "interrupted"
        raise
    except Exception as error:
        fit.reason = str(error) if isinstance(error, (UserError, LostProcess)) else f"{type(error).__name__}: {error}"
        raise
    finally:
        results = fit.results()
        results.write(run_dir)
        fit.print_end(results)
        fit.log_end(results)
        if config.report:
            write_report(console, experiment, run_dir, fit.kept.probabilities, trained=True)
    return results


def check_continuation(config: Config, experiment: Experiment, run_dir: RunDir, last: Checkpoint) -> None:
    """Raise UserError where the run cannot go on from ``last``: on other images, or to an epoch before it."""
    started_on, dataset = last.dataset, experiment.data.dataset
    if started_on["fingerprint"] != dataset.fingerprint:  # a stand-in, for instance
        if (started_on["name"], started_on["source"]) == (dataset.name, dataset.source):
            raise UserError(f"resume={run_dir.path}: {dataset.source} has changed since; start a new run")
        raise UserError(
            f"resume={run_dir.path}: started on {started_on['name']} ({started_on['source']}); what is here now is"
            f" {dataset.name} ({dataset.source}); start a new run, or set data_dir to where it started"
        )
    position = last.position or {"epoch": 0, "batch": 0}
    epoch, max_epochs = position["epoch"] + (position["batch"] > 0), config.trainer.max_epochs
    if epoch > max_epochs:
        raise UserError(f"trainer.max_epochs={max_epochs}: the run is in epoch {epoch} already")


def with_continuation(config: Config, last: Checkpoint) -> Config:
    """The config, which says from which step on a schedule of another length counts, so that no single run is this."""
    before, now = last.config["trainer"], config.trainer
    keys = [key for key in ("max_epochs", "max_steps") if before.get(key) != getattr(now, key)]
    if config.scheduler.name == "none" or not keys or not last.step:
        return config
    changes = ", ".join(f"trainer.{key}={getattr(now, key)} (before: {before.get(key)})" for key in keys)
    line = f"from step {last.step + 1}: {changes}"
    return config.updated({"continued": [*(one for one in config.continued or [] if one != line), line]})


class Fit:
    """A run of the Trainer: its test, what it measured, and what it prints at its end."""

    def __init__(
        self, config: Config, experiment: Experiment, run_dir: RunDir, trainer: pl.Trainer, console: Console
    ) -> None:
        self.config, self.experiment, self.run_dir = config, experiment, run_dir
        self.trainer, self.console = trainer, console
        self.checkpointing = self._callback(Checkpointing)
        self.metrics_csv, self.timer = self._callback(MetricsCSV), self._callback(EpochTimer)
        self.kept = self._callback(KeepProbabilities)
        self.status = "failed"
        self.reason: str | None = None
        self.test_metrics: Row = {}
        self.test_seconds: float | None = None
        self.times_tested = 0
        self.saved_model: str | None = None

    def _callback(self, kind: type[C]) -> C:
        found = find_callback(self.trainer, kind)
        assert found is not None
        return found

    def test(self, best: Checkpoint) -> None:
        """Test the checkpoint that validation chose."""
        started = time.perf_counter()
        self.times_tested += 1
        load_module(self.experiment.model, best)
        self.test_metrics = common.test(self.trainer, self.experiment)
        self.test_seconds = time.perf_counter() - started

    def save_weights(self, best: Checkpoint, path: Path) -> None:
        """Write the network's weights as a plain state dict, unless the run was cut short. A full disk, say, is printed
        and ends nothing.
        """
        predictor = self.experiment.predictor
        if predictor is None or common.cut_short(self.config, self.experiment.data):
            return
        try:
            state_dict.write(best.state_dict, predictor.network, path)
        except OSError as error:
            reason = error.strerror or str(error)
            self.checkpointing.unsaved.append(f"{path.name}: {reason}")
            self.console.print(f"  could not save {path}: {reason}", style="bold red")
            return
        self.saved_model = str(path)

    def results(self) -> Results:
        """The content of results.json."""
        best: Row = self.checkpointing.best or {}
        timer, compiler = self.timer, find_callback(self.trainer, Compiler)
        results = common.results(self.config, self.experiment, self.run_dir, self.status)
        results.reason = self.reason
        results.epochs, results.steps = len(self.metrics_csv.history), self.trainer.global_step
        results.metrics |= metrics_of(best) | self.test_metrics
        results.best_checkpoint = "checkpoints/best.ckpt" if best else None
        results.best_epoch = int(best["epoch"] or 0) if best else None
        results.seconds = Seconds(
            total=self.run_dir.seconds,
            fit=timer.seconds,
            test=self.test_seconds,
            epochs=[EpochSeconds(**epoch) for epoch in timer.epochs],
            compile=None if compiler is None else compiler.seconds,
        )
        results.images_per_second = timer.images / timer.train_seconds if timer.images else None
        results.saved_model = self.saved_model
        common.add_test(results, self.kept.probabilities, self.experiment.data.dataset)
        results.times_tested = self.times_tested
        results.unsaved = self.checkpointing.unsaved
        return results

    def log_end(self, results: Results) -> None:
        """Give TensorBoard what is known at the end; an error of it is printed and ends nothing."""
        if self.config.logger.name != "tensorboard" or not self.trainer.is_global_zero:
            return
        try:
            loggers.log_final(
                self.trainer.loggers,
                self.config.without("resume", "rerun", "task", "report"),
                results.metrics,
                self.experiment.predictor,
                next(iter(self.experiment.data.train_dataloader())),
                self.kept.probabilities,
                self.experiment.data.dataset.test_labels,
                graph=bool(self.config.logger.extra.get("graph")),
            )
        except Exception as error:  # of libraries, of the disk
            message = f"the final metrics could not be logged to TensorBoard ({type(error).__name__}: {error})"
            self.console.print(f"  {message}", style="yellow")

    def print_end(self, results: Results) -> None:
        """How the run ended, and the commands that go on from here."""
        console, unsaved = self.console, results.unsaved
        console.print()
        if self.status == "interrupted":
            steps, saved = results.steps, self.checkpointing.saved_step
            when = f"after {steps:,} steps" if steps else "before the first step"
            again = f"; steps from {saved + 1:,} on are done again" if saved < steps else ", all of it saved"
            console.print(f"interrupted {when}{again}. To continue:", style="bold")
            console.print(f"  {command(assign('resume', self.run_dir.path), *using(self.config.use))}")
        if unsaved:
            console.print(f"{len(unsaved)} times something could not be saved, last: {unsaved[-1]}", style="bold red")
        if self.status == "pruned":
            console.print(f"pruned after epoch {results.epochs}", style="bold")
        if self.status == "completed":
            if self.experiment.has_test:
                common.tested(console, results, f"best epoch {results.best_epoch or '-'}, {results.tested_text}")
            else:
                target = self.config.module.target
                console.print(f"best epoch {results.best_epoch}, not tested: {target} has no test_step")
            self._print_next(results)

    def _print_next(self, results: Results) -> None:
        path, more = self.run_dir.path, f"trainer.max_epochs={2 * self.config.trainer.max_epochs}"
        used = using(self.config.use)
        self.console.print()
        if self.config.save_model is not None and results.cut_short:
            self.console.fields({"state dict": f"{self.config.save_model} is not written for a run that was cut short"})
        if self.saved_model is not None:
            normalised = common.normalisation(self.experiment.data)
            self.console.fields({"state dict": f"{self.saved_model}, of epoch {results.best_epoch}, for {normalised}"})
        others = path.parent.parent if path.parent.parent.name == "runs" else path.parent
        checkpoint = assign("checkpoint", self.run_dir.best_checkpoint)
        goes_on = results.epochs == self.config.trainer.max_epochs  # and was not stopped early
        self.console.fields(
            {
                **({"test again": command("task=test", checkpoint, *used)} if self.experiment.has_test else {}),
                **({"continue": command(assign("resume", path), more, *used)} if goes_on else {}),
                "compare": command("task=report", assign("runs", others)),
            }
        )
        if self.config.logger.name == "tensorboard":
            self.console.fields({"curves": installed("tensorboard", "--logdir", str(others.resolve()))})
