"""Train, choose the best epoch by validation, test that one once."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import Interrupted, Pruned, UserError
from smallvision.core.run_dir import RunDir, command
from smallvision.tasks import common
from smallvision.tasks.report_data import draw_report, log_final
from smallvision.training import state_dict as bare
from smallvision.training.callbacks import find_callback
from smallvision.training.callbacks.checkpointing import Checkpointing
from smallvision.training.callbacks.compile import compile_seconds
from smallvision.training.callbacks.epoch_timer import EpochTimer
from smallvision.training.callbacks.keep_probabilities import KeepProbabilities
from smallvision.training.callbacks.metrics_csv import MetricsCSV
from smallvision.training.callbacks.terminate_on_nan import explain_out_of_memory
from smallvision.training.checkpoint import Checkpoint, newest, read_checkpoint
from smallvision.training.factory import Experiment, make_callbacks, make_data, make_experiment, make_trainer
from smallvision.training.loggers import make_logger


def run(
    config: Config,
    run: RunDir,
    checkpoint: None = None,
    callbacks: Sequence[Callback] = (),
    test: bool = True,
) -> dict[str, Any]:
    """One whole run in its directory, from the start or from its last.ckpt; gives its results.json.

    ``callbacks``: further ones, which may raise Pruned at the end of an epoch; ``test``: whether the best epoch is
    tested.
    """
    console = Console()
    experiment = make_experiment(config, make_data(config))
    save_to = bare.target(config.get("save_model"), run.directory)
    last, damaged = newest(run.directory / "checkpoints")
    if last is not None:
        refuse_other_data(last.dataset, experiment, run)
        refuse_to_go_back(last.position, config["trainer"]["max_epochs"])
    trainer = make_trainer(
        config,
        experiment.device,
        run.directory,
        checkpoint=last,
        logger=make_logger(config.logger, run.directory) or False,
        callbacks=[*make_callbacks(config, experiment, run.directory, console, last), *callbacks],
    )
    run.describe(config, experiment.device.hardware)
    verb = "training" if last is None else "continuing"
    common.summary(console, config, experiment, run, f"{verb} {config['model']['name']}")
    for message in damaged:
        console.print(f"  damaged    {message}; going on from {last.path if last else None}", style="bold yellow")
    remove_stop_file(console, run, last)
    fit = Fit(config, experiment, run, trainer, console)
    try:
        with explain_out_of_memory(config):
            trainer.fit(
                experiment.model, datamodule=experiment.data, ckpt_path=last.path if last else None, weights_only=True
            )
        if test:
            fit.test_best()
        if save_to is not None and run.first:
            fit.save_weights(save_to)
        fit.status = "completed"
    except Pruned:
        fit.status = "pruned"
    except Interrupted:
        fit.status = "interrupted"
        raise
    except Exception as error:
        fit.reason = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)
        raise
    finally:
        results = fit.results()
        run.results(results)
        fit.print_end(results)
        if test:
            log_final(console, config, experiment, results["metrics"], fit.probabilities)
            if config["report"]:
                draw_report(console, experiment, run, fit.probabilities, trained=True)
    return results


def remove_stop_file(console: Console, run: RunDir, last: Checkpoint | None) -> None:
    """What stopped a run before does not stop it again when it is continued."""
    file = run.directory / "stop"
    if last is not None and run.first and file.exists():
        file.unlink()
        console.print(f"  removed    {file}, which asked for a stop before", style="yellow")


def refuse_other_data(begun_on: dict[str, Any], experiment: Experiment, run: RunDir) -> None:
    """A run ends on the images that it began on: a stand-in, say, does not turn into the real thing."""
    record = experiment.data.dataset
    if begun_on["fingerprint"] != record.fingerprint:
        raise UserError(
            f"resume={run.directory}: began on {begun_on['name']} ({begun_on['source']}); what is here now is"
            f" {record.name} ({record.source}); start a new run, or set data_dir to where it began"
        )


def refuse_to_go_back(position: dict[str, int] | None, max_epochs: int) -> None:
    """A run cannot end before the epoch that it is in."""
    begun = position["epoch"] + (position["batch"] > 0) if position else 0
    if begun > max_epochs:
        raise UserError(f"trainer.max_epochs={max_epochs}: the run is in epoch {begun} already")


def compared_runs(directory: Path) -> Path:
    """The folder of the runs that this one is to be compared with."""
    above = directory.parent.parent
    return above if above.name == "runs" else directory.parent


class Fit:
    """A run under way: what it has come to, and how that is reported."""

    def __init__(
        self, config: Config, experiment: Experiment, run: RunDir, trainer: pl.Trainer, console: Console
    ) -> None:
        self.config, self.experiment, self.run = config, experiment, run
        self.trainer, self.console = trainer, console
        self.checkpointing = self._callback(Checkpointing)
        self.metrics, self.timer = self._callback(MetricsCSV), self._callback(EpochTimer)
        self.kept = self._callback(KeepProbabilities)
        self.status = "failed"
        self.reason: str | None = None
        self.tested: dict[str, float] = {}
        self.test_seconds: float | None = None
        self.saved_model: str | None = None

    def _callback(self, kind: Any) -> Any:
        found = find_callback(self.trainer, kind)
        assert found is not None
        return found

    @property
    def probabilities(self) -> Any:
        return self.kept.probabilities

    @property
    def best_path(self) -> Path:
        return self.run.directory / "checkpoints" / "best.ckpt"

    def test_best(self) -> None:
        """Test the checkpoint that validation chose, if any could be saved and there are test images."""
        if not self.experiment.data.sizes["test"] or self.checkpointing.best is None:
            return
        started = time.perf_counter()
        self.experiment.model.predictor.load_weights(read_checkpoint(self.best_path))
        self.trainer.test(self.experiment.model, datamodule=self.experiment.data, verbose=False)
        self.tested = {name: self.trainer.callback_metrics[name].item() for name in ("test/loss", "test/acc")}
        self.test_seconds = time.perf_counter() - started

    def save_weights(self, path: Path) -> None:
        """Write the best epoch's weights as a plain state dict; a full disk is reported and ends nothing."""
        if self.checkpointing.best is None:
            return
        try:
            bare.write(read_checkpoint(self.best_path).state_dict, self.experiment.model.predictor.network, path)
        except OSError as error:
            reason = error.strerror or str(error)
            self.checkpointing.unsaved.append(f"{path.name}: {reason}")
            self.console.print(f"  could not save {path}: {reason}", style="bold red")
            return
        self.saved_model = str(path)

    def results(self) -> dict[str, Any]:
        """The content of results.json."""
        best, timer = self.checkpointing.best, self.timer
        return {
            **common.results(self.config, self.experiment, self.run, self.status),
            "reason": self.reason,
            "epochs": len(self.metrics.history),
            "steps": self.trainer.global_step,
            "metrics": {name: (best or {}).get(name) for name in common.METRICS} | self.tested,
            "best_checkpoint": "checkpoints/best.ckpt" if best else None,
            "seconds": {
                "total": self.run.seconds,
                "fit": timer.seconds,
                "test": self.test_seconds,
                "epochs": timer.epochs,
                **compile_seconds(self.trainer),
            },
            "saved_model": self.saved_model,
            "best_epoch": best["epoch"] if best else None,
            "tested": len(self.probabilities),
            "unsaved": self.checkpointing.unsaved,
            "images_per_second": timer.images / timer.train_seconds if timer.images else None,
        }

    def print_end(self, results: dict[str, Any]) -> None:
        """How it ended, and the commands that go on from here."""
        console, directory = self.console, str(self.run.directory)
        unsaved: list[str] = self.checkpointing.unsaved
        console.print()
        if self.status == "interrupted":
            steps, saved = results["steps"], self.checkpointing.saved_step
            when = f"after {steps:,} steps" if steps else "before the first step"
            again = f"; steps from {saved + 1:,} on are done again" if saved < steps else ", all of it saved"
            console.print(f"interrupted {when}{again}. To continue:", style="bold")
            console.print(f"  {command(f'resume={directory}')}")
        if unsaved:
            console.print(f"{len(unsaved)} times something could not be saved, last: {unsaved[-1]}", style="bold red")
        if self.status == "pruned":
            console.print(f"pruned after epoch {results['epochs']}", style="bold")
        if self.status == "completed":
            self._print_completed(results)

    def _print_completed(self, results: dict[str, Any]) -> None:
        console, dataset, count = self.console, self.experiment.data.dataset, results["tested"]
        directory, best_epoch = self.run.directory, results["best_epoch"]
        if results["metrics"]["test/acc"] is not None:
            which = f"best epoch {best_epoch or '-'}, tested once"
            console.print(common.test_line(results["metrics"], count, which), style="bold green")
            common.print_if_partial(console, count, self.experiment)
        if dataset.stand_in_for is not None:
            console.print(common.stand_in_line(dataset.stand_in_for), style="bold red")
        elif dataset.remark:
            console.print(f"      {dataset.remark}", style="yellow")
        console.print()
        if self.saved_model is not None:
            normalised = common.normalised_by(self.experiment.data)
            console.fields({"state dict": f"{self.saved_model}, of epoch {best_epoch}, for {normalised}"})
        more = 2 * self.config["trainer"]["max_epochs"]
        console.fields(
            {
                "test again": command("task=test", f"checkpoint={self.best_path}"),
                "continue": command(f"resume={directory}", f"trainer.max_epochs={more}"),
                "compare": command("task=report", f"runs={compared_runs(directory)}"),
            }
        )
