"""Train, choose the best epoch by validation, test that one once."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import Interrupted, Pruned, UserError
from smallvision.core.run_dir import RunDir, command
from smallvision.tasks import common
from smallvision.tasks.report_data import draw_report, tell_loggers
from smallvision.training import state_dict as bare
from smallvision.training.callbacks.checkpointing import Keeper, Row
from smallvision.training.callbacks.compile import compile_seconds
from smallvision.training.callbacks.epoch_timer import Clock
from smallvision.training.callbacks.progress import Display
from smallvision.training.callbacks.terminate_on_nan import TerminateOnNaN, explain_out_of_memory
from smallvision.training.checkpoint import newest, read_checkpoint
from smallvision.training.factory import Experiment, make_data, make_experiment, make_trainer
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
    last_path = None if last is None else last.path
    if last is not None:
        refuse_other_data(last.dataset, experiment, run)
        refuse_to_go_back(last.position, config["trainer"]["max_epochs"])
    display = Display(console, config["trainer"]["max_epochs"], config.get("log_every_n_batches"))
    watch = TerminateOnNaN(config)

    def tell(row: Row, is_best: bool, images_per_second: float) -> None:
        display.row(row, is_best, images_per_second)

    clock = Clock()
    keeper = Keeper(run.directory, **config["checkpoint"], tell=tell, warn=display.warn, look=watch.look)
    trainer = make_trainer(
        config,
        experiment.device,
        run.directory,
        checkpoint=last,
        logger=make_logger(config["logger"], run.directory) or False,
        callbacks=[watch, display, *early_stopping(config), clock, keeper, *callbacks],
    )
    run.describe(config, experiment.device.hardware)
    verb = "training" if last is None else "continuing"
    common.summary(console, config, experiment, run, f"{verb} {config['model']['name']}")
    for words in damaged:
        console.print(f"  damaged    {words}; going on from {last_path}", style="bold yellow")
    status, reason, test_seconds, saved_model = "failed", None, None, None
    tested: dict[str, float] = {}
    try:
        with explain_out_of_memory(config):
            trainer.fit(experiment.model, datamodule=experiment.data, ckpt_path=last_path, weights_only=True)
        tested_from = time.perf_counter()
        tested = test_best(trainer, experiment, keeper) if test else {}
        test_seconds = time.perf_counter() - tested_from
        if save_to is not None and run.first:
            saved_model = save_plain(save_to, experiment, keeper)
        status = "completed"
    except Pruned:
        status = "pruned"
    except Interrupted:
        status = "interrupted"
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)
        raise
    finally:
        display.stop()
        figures = {
            **common.results(config, experiment, run, status),
            "reason": reason,
            "epochs": len(keeper.history),
            "steps": trainer.global_step,
            "metrics": chosen_figures(keeper) | tested,
            "best_checkpoint": str(keeper.best_path.relative_to(run.directory)) if keeper.best else None,
            "seconds": {
                "total": run.seconds,
                "fit": keeper.seconds,
                "test": test_seconds,
                "epochs": clock.epochs,
                **compile_seconds(trainer),
            },
            "saved_model": saved_model,
            "best_epoch": keeper.best["epoch"] if keeper.best else None,
            "tested": len(experiment.model.tested),
            "unsaved": keeper.unsaved,
            "images_per_second": keeper.images / keeper.train_seconds if keeper.images else None,
        }
        run.results(figures)
        closing_lines(console, config, experiment, run, keeper, figures)
        if test:
            tell_loggers(console, config, experiment, figures["metrics"])
            if config["report"]:
                draw_report(console, experiment, run, trained=True)
    return figures


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


def early_stopping(config: Config) -> list[Callback]:
    choice = config["early_stopping"]
    if choice["patience"] is None:
        return []
    return [EarlyStopping("val/acc", mode="max", patience=choice["patience"], min_delta=choice["min_delta"])]


def test_best(trainer: pl.Trainer, experiment: Experiment, keeper: Keeper) -> dict[str, float]:
    """The test figures of the checkpoint that validation chose; none where there are no test images."""
    if not experiment.data.sizes["test"] or keeper.best is None:  # there are none, or nothing could be saved
        return {}
    experiment.model.predictor.load_weights(read_checkpoint(keeper.best_path))
    trainer.test(experiment.model, datamodule=experiment.data, verbose=False)
    return {name: value for name, value in experiment.model.figures.items() if name.startswith("test/")}


def save_plain(path: Path, experiment: Experiment, keeper: Keeper) -> str | None:
    """Write the chosen epoch's weights as a plain state dict; a full disk is told and ends nothing.

    Gives the file's path, or None where there is none.
    """
    if keeper.best is None:  # nothing could be saved
        return None
    try:
        bare.write(read_checkpoint(keeper.best_path).state_dict, experiment.model.predictor.network, path)
    except OSError as error:
        said = error.strerror or str(error)
        keeper.unsaved.append(f"{path.name}: {said}")
        keeper.warn(f"could not save {path}: {said}")
        return None
    return str(path)


def chosen_figures(keeper: Keeper) -> dict[str, Any]:
    """Train and validation figures of the chosen epoch."""
    row = keeper.best or {}
    return {name: row.get(name) for name in common.METRICS}


def beside(directory: Path) -> Path:
    """The folder of the runs that this one is to be compared with."""
    above = directory.parent.parent
    return above if above.name == "runs" else directory.parent


def closing_lines(
    console: Console,
    config: Config,
    experiment: Experiment,
    run: RunDir,
    keeper: Keeper,
    figures: dict[str, Any],
) -> None:
    """How it ended, and the commands that go on from here."""
    directory = str(run.directory)
    console.print()
    if figures["status"] == "interrupted":
        where = f"after {figures['steps']:,} steps" if figures["steps"] else "before the first step"
        kept = keeper.saved_step
        again = f"; steps from {kept + 1:,} on are done again" if kept < figures["steps"] else ", all of it saved"
        console.print(f"interrupted {where}{again}. To continue:", style="bold")
        console.print(f"  {command(f'resume={directory}')}")
    if keeper.unsaved:
        console.print(
            f"{len(keeper.unsaved)} times something could not be saved, last: {keeper.unsaved[-1]}",
            style="bold red",
        )
    if figures["status"] == "pruned":
        console.print(f"pruned after epoch {figures['epochs']}", style="bold")
    if figures["status"] != "completed":
        return
    record, count = experiment.data.dataset, figures["tested"]
    if figures["metrics"]["test/acc"] is not None:
        which = f"best epoch {keeper.best['epoch'] if keeper.best else '-'}, tested once"
        console.print(common.test_line(figures["metrics"], count, which), style="bold green")
        common.say_if_partial(console, count, experiment)
    if record.stand_in_for is not None:
        console.print(common.stand_in_line(record.stand_in_for), style="bold red")
    elif record.remark:
        console.print(f"      {record.remark}", style="yellow")
    more = 2 * config["trainer"]["max_epochs"]
    console.print()
    if figures["saved_model"] is not None:
        of = f"of epoch {figures['best_epoch']}, for {common.normalised_by(experiment.data)}"
        console.fields({"state dict": f"{figures['saved_model']}, {of}"})
    console.fields(
        {
            "test again": command("task=test", f"checkpoint={keeper.best_path}"),
            "continue": command(f"resume={directory}", f"trainer.max_epochs={more}"),
            "compare": command("task=report", f"runs={beside(run.directory)}"),
        }
    )
