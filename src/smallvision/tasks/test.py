"""The test metrics of a checkpoint, from the checkpoint alone."""

import time
from functools import partial

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.results import Results, Seconds
from smallvision.core.run_dir import RunDir
from smallvision.tasks import common
from smallvision.tasks.report_data import write_report
from smallvision.training import state_dict
from smallvision.training.callbacks.keep_probabilities import KeepProbabilities
from smallvision.training.callbacks.keyed_randomness import KeyedRandomness
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.factory import Experiment, make_trainer
from smallvision.training.processes import Group, joined


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> Results:
    """Test the model of ``checkpoint`` once, on the test images of its data or of ``data=``."""
    assert run_dir is not None
    with joined(config, run_dir) as group:
        checkpoint = group.broadcast(checkpoint)
        assert checkpoint is not None
        return _run(config, run_dir, checkpoint, group)


def _run(config: Config, run_dir: RunDir, checkpoint: Checkpoint | BareWeights, group: Group) -> Results:
    console = Console()
    experiment, note = load(checkpoint, config, group)
    if not experiment.data.sizes["test"]:
        raise UserError(f"data={config.data.name}: has no test images")
    if not experiment.has_test:
        raise UserError(f"{config.module.target}: has no test_step")
    kept = KeepProbabilities()
    trainer = make_trainer(config, experiment.device, run_dir.path, [kept, KeyedRandomness(config.seed)], group=group)
    group.from_first(partial(run_dir.describe, config.to_dict(), experiment.device.hardware))
    common.summary(console, config, experiment, run_dir)
    if note is not None:
        console.print(f"  note       {note}", style="yellow")
    started = time.perf_counter()
    with group.explain_lost_process():
        metrics = common.test(trainer, experiment)
    seconds = time.perf_counter() - started
    results = common.results(config, experiment, run_dir, "completed")
    results.metrics |= metrics
    common.add_test(results, kept.probabilities, experiment.data.dataset)
    results.times_tested = 1
    results.best_checkpoint = str(checkpoint.path)
    results.seconds = Seconds(total=run_dir.seconds, test=seconds)
    which = "of a bare state dict"
    if isinstance(checkpoint, Checkpoint):
        results.epochs, results.steps = checkpoint.epoch, checkpoint.step
        which = f"epoch {checkpoint.epoch}"
    results.write(run_dir)
    console.print()
    common.tested(console, results, which)
    if config.report:
        write_report(console, experiment, run_dir, kept.probabilities, trained=False)
    return results


def load(checkpoint: Checkpoint | BareWeights, config: Config, group: Group) -> tuple[Experiment, str | None]:
    """The model with the weights of ``checkpoint``, and a note on how to read its test metrics.

    A bare state dict is for the network and the data of ``config``. Raises UserError where the weights do not fit.
    """
    if isinstance(checkpoint, Checkpoint):
        experiment = common.make_shared_experiment(config, group, checkpoint)
        trained_on, tested_on = checkpoint.dataset, experiment.data.dataset
        name, source = trained_on["name"], trained_on["source"]
        if trained_on["fingerprint"] == tested_on.fingerprint:
            return experiment, None
        if (name, source) == (tested_on.name, tested_on.source):
            return experiment, f"{source} has changed since the training, which may have seen test images"
        return experiment, f"trained on other data: {name}, {source}"
    whiten, name = config.data.normalisation.whiten, config.model.name
    if whiten:
        raise UserError(f"data.normalisation.whiten={whiten}: a bare state dict has no such layer; use 0")
    experiment = common.make_shared_experiment(config, group)
    assert experiment.predictor is not None
    network = experiment.predictor.network
    network.load_state_dict(state_dict.fitted(checkpoint.state_dict, network, checkpoint.path, name))
    normalised = common.normalisation(experiment.data)
    return experiment, f"{state_dict.SAYS_NOTHING} or its data: tested as {name}, {normalised}"
