"""The test metrics of a checkpoint, from the checkpoint alone."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir
from smallvision.tasks import common
from smallvision.tasks.report_data import draw_report
from smallvision.training import state_dict as bare
from smallvision.training.callbacks.keep_probabilities import KeepProbabilities
from smallvision.training.checkpoint import BareWeights, read_weights
from smallvision.training.factory import Experiment, make_data, make_experiment, make_trainer


@dataclass
class Loaded:
    """A model with its weights; ``which``: the words for it; ``remark``: what to read its results with."""

    experiment: Experiment
    epochs: int
    steps: int
    which: str
    remark: str | None = None


def run(config: Config, run: RunDir, checkpoint: Any = None) -> dict[str, Any]:
    """Rebuild the model, test it once on the test images of its data (or of ``data=``)."""
    console = Console()
    file = Path(config["checkpoint"])
    loaded = load(file, config)
    experiment = loaded.experiment
    if not experiment.data.sizes["test"]:
        raise UserError(f"data={config['data']['name']}: has no test images")
    kept = KeepProbabilities()
    trainer = make_trainer(
        config, experiment.device, run.directory, logger=False, enable_checkpointing=False, callbacks=[kept]
    )
    run.describe(config, experiment.device.hardware)
    common.summary(console, config, experiment, run, f"testing {file}")
    if loaded.remark is not None:
        console.print(f"  note       {loaded.remark}", style="yellow")
    record = experiment.data.dataset
    started = time.perf_counter()
    trainer.test(experiment.model, datamodule=experiment.data, verbose=False)
    seconds = time.perf_counter() - started
    results = common.results(config, experiment, run, "completed")
    results["metrics"] |= {name: trainer.callback_metrics[name].item() for name in ("test/loss", "test/acc")}
    results |= {
        "tested": len(kept.probabilities),
        "epochs": loaded.epochs,
        "steps": loaded.steps,
        "best_checkpoint": str(file),
        "seconds": {"total": run.seconds, "fit": None, "test": seconds},
    }
    run.results(results)
    console.print()
    line = common.test_line(results["metrics"], results["tested"], loaded.which)
    console.print(line, style="bold green")
    common.print_if_partial(console, results["tested"], experiment)
    if record.stand_in_for is not None:
        console.print(common.stand_in_line(record.stand_in_for), style="bold red")
    if config["report"]:
        draw_report(console, experiment, run, kept.probabilities, trained=False)
    return results


def load(file: Path, config: Config) -> Loaded:
    """The model of ``file``: a checkpoint, or a bare state dict for the network and data of ``config``.

    Raises UserError where the weights do not fit.
    """
    found = read_weights(file)
    if isinstance(found, BareWeights):
        return _load_bare(found, config)
    experiment = make_experiment(config, make_data(config), found)
    dataset, remark = experiment.data.dataset, None
    if found.dataset["fingerprint"] != dataset.fingerprint:
        remark = f"trained on other data: {found.dataset['name']}, {found.dataset['source']}"
    return Loaded(experiment, found.epoch, found.step, f"epoch {found.epoch}", remark)


def _load_bare(found: BareWeights, config: Config) -> Loaded:
    whiten = config["data"]["normalisation"]["whiten"]
    if whiten:
        raise UserError(f"data.normalisation.whiten={whiten}: a bare state dict has no such layer; use 0")
    data = make_data(config)
    experiment = make_experiment(config, data)
    network, name = experiment.model.predictor.network, config["model"]["name"]
    network.load_state_dict(bare.fitted(found.state_dict, network, found.path, name))
    remark = f"{bare.SAYS_NOTHING} or its data: tested as {name}, {common.normalised_by(data)}"
    return Loaded(experiment, 0, 0, "of a bare state dict", remark)
