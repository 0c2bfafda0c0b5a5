"""What fit, test and bench print and write alike."""

from functools import partial

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from smallvision.config.schema import Config, Optimizer
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.results import DataResults, ModelResults, Results, Row, Seconds
from smallvision.core.run_dir import RunDir
from smallvision.data.dataset import ImageDataset, origin
from smallvision.data.module import ImageDataModule
from smallvision.models.pretrained import PretrainedNetwork
from smallvision.reports.evaluation import Evaluation
from smallvision.reports.formatting import shorten
from smallvision.reports.statistics import wilson
from smallvision.training.checkpoint import Checkpoint
from smallvision.training.device import Device
from smallvision.training.factory import Experiment, make_data, make_experiment
from smallvision.training.model_spec import shape_str
from smallvision.training.processes import Group

WITHOUT_CLASSES = "a LightningModule of your own: no confusion matrix, no task=predict, export or serve"
FEW = 10  # test images, which do not tell how well their class is recognised


def make_shared_experiment(
    config: Config, group: Group, checkpoint: Checkpoint | None = None, pretrained: bool = False
) -> Experiment:
    """That of each process of a run. Raises UserError where they do not have the same images."""
    experiment = group.together(partial(_experiment, config, checkpoint, pretrained))
    found = group.gather(experiment.data.dataset.identity)
    if any(identity != found[0] for identity in found):
        sources = ", ".join(f"process {rank}: {one['source']}" for rank, one in enumerate(found))
        raise UserError(f"data={config.data.name}: not the same images everywhere ({sources}); see data_dir")
    lasts = {experiment.data.sizes[part] % config.data.eval_batch_size for part in ("val", "test")}
    if config.module.is_own and any(0 < last < group.world_size for last in lasts):
        raise UserError(
            f"data.eval_batch_size={config.data.eval_batch_size}: leaves a batch of fewer images than the"
            f" {group.world_size} processes, which {config.module.target} may not take; use another size"
        )
    return experiment


def _experiment(config: Config, checkpoint: Checkpoint | None, pretrained: bool) -> Experiment:
    Console().fields({"reading": f"data={config.data.name}"})
    return make_experiment(config, make_data(config), checkpoint, pretrained)


def summary(console: Console, config: Config, experiment: Experiment, run_dir: RunDir) -> None:
    """Print what is computed on which data, before anything that takes long."""
    dataset, sizes, device = experiment.data.dataset, experiment.data.sizes, experiment.device
    wanted = config.data.val_size
    taken = "" if isinstance(wanted, int) else " (a tenth)" if wanted is None else f" (data.val_size={wanted})"
    if dataset.stand_in_for is not None:
        console.print(f"  STAND-IN: these images are not {dataset.stand_in_for}", style="bold red")
    console.fields(
        {
            "data": origin(dataset.name, dataset.source),
            "": f"{sizes['train']:,} train, {sizes['val']:,} val{taken}, {sizes['test']:,} test;"
            f" {shape_str(dataset.shape)}, {len(dataset.classes)} classes",
            ("module" if config.module.is_own else "network"): f"{config.trained}, {experiment.parameters:,} parameters"
            + (f", {experiment.flops / 1e6:.3g} MFLOP an image" if experiment.flops else ""),
        }
    )
    network = None if experiment.predictor is None else experiment.predictor.network
    if isinstance(network, PretrainedNetwork) and network.weights is not None:
        console.fields({"weights": network.origin})
    if config.module.is_own:
        module = config.module
        best = "the last epoch" if module.monitor is None else f"epoch by {module.monitor} ({module.mode})"
        console.fields({"": WITHOUT_CLASSES, "best": best, "seed": f"{config.seed}"})
    elif config.task == "fit":
        console.fields(
            {
                "optimizer": f"{optimizer(config.optimizer, device)}, lr {config.optimizer.lr:g},"
                f" {config.scheduler.name} schedule, batches of {config.data.batch_size}",
                "seed": f"{config.seed}",
            }
        )
    console.fields({"device": str(device), "run": str(run_dir.path)})
    if dataset.remark:
        console.print(f"  note       {dataset.remark}", style="yellow")
    for message in [] if config.module.is_own else imbalance(dataset):
        console.print(f"  classes    {message}", style="yellow")


def imbalance(dataset: ImageDataset) -> list[str]:
    """What is worth knowing of how many images the classes have."""
    labels, number = dataset.test_labels, len(dataset.classes)
    counts = torch.bincount(labels if len(labels) else dataset.train_labels, minlength=number)
    majority, few, found = float(counts.max() / counts.sum()), int((counts < FEW).sum()), []
    if majority >= 1.5 / number:
        name = shorten(dataset.classes[int(counts.argmax())], 20)
        found.append(f"{majority:.0%} are {name}: always to answer that is right as often (chance: {1 / number:.0%})")
        found.append("see the balanced accuracy, and loss.class_weights=balanced")
    if len(labels) > 0 and few:
        found.append(f"{few} of {number} have fewer than {FEW} test images: too few to judge them by")
    return found


def test(trainer: Trainer, experiment: Experiment) -> Row:
    """What a test of the model measures, by name."""
    measured = trainer.test(experiment.model, datamodule=experiment.data, verbose=False)
    return {name: float(value) for metrics in measured for name, value in metrics.items()}


def add_test(results: Results, probabilities: Tensor, dataset: ImageDataset) -> None:
    """Put into ``results`` how many images were tested and their balanced accuracy."""
    results.tested = len(probabilities)
    if results.tested:
        labels = dataset.test_labels[: results.tested].numpy()
        results.balanced_accuracy = Evaluation(probabilities.numpy(), labels).balanced_accuracy


def optimizer(section: Optimizer, device: Device) -> str:
    """Its name, whether one kernel moves all tensors on ``device``, and the optimizer of what Muon does not update."""
    text = section.name + " (fused)" * bool(device.with_kernel(section).extra.get("fused"))
    if section.rest is None:
        return text
    rest = section.rest.target.rpartition(".")[2].lower()
    return f"{text} and {rest}" + " (fused)" * bool(device.with_kernel(section.rest).extra.get("fused"))


def cut_short(config: Config, data: ImageDataModule) -> str | None:
    """The keys by which the Trainer leaves out batches that there are, as typed; None where there are none."""
    trainer = config.trainer
    found = {key: trainer.extra[key] for key in ("fast_dev_run", "overfit_batches") if trainer.extra.get(key)}
    for part, count in data.batches.items():
        limit, used = getattr(trainer, f"limit_{part}_batches"), part != "test" or config.test
        limited = limit is not None and (int(limit * count) if isinstance(limit, float) else limit) < count
        if limited and (used if config.task == "fit" else part == config.task):
            found[f"limit_{part}_batches"] = limit
    return ", ".join(f"trainer.{key}={str(value).lower()}" for key, value in found.items()) or None


def results(config: Config, experiment: Experiment, run_dir: RunDir, status: str) -> Results:
    """What results.json holds whatever the task; the task adds what it measured."""
    data = experiment.data
    return Results(
        status=status,
        task=config.task,
        seed=config.seed,
        device=experiment.device.kind,
        precision=experiment.device.precision,
        data=DataResults(**data.dataset.identity, **data.sizes),  # type: ignore[arg-type]
        model=ModelResults(config.trained, experiment.parameters),
        optimizer=config.trained_by,
        seconds=Seconds(total=run_dir.seconds),
        cut_short=cut_short(config, data),
    )


def tested(console: Console, results: Results, which: str) -> None:
    """Print the test metrics, if any, with a 95 % interval, and what they do not show; ``which``: of what model."""
    data, count = results.data, results.tested
    accuracy, loss = results.metrics["test/acc"], results.metrics["test/loss"]
    if accuracy is not None and loss is not None and count:
        low, high = wilson(round(accuracy * count), count)
        interval = f"95 % interval {low:.4f} to {high:.4f}, n = {count:,}"
        for line in (f"test  loss {loss:.4f}  acc {accuracy:.4f}  ({interval})", f"      {which}"):
            console.print(line, style="bold green")
        balanced = results.balanced_accuracy
        if balanced is not None and abs(balanced - accuracy) >= 0.001:
            console.print(f"      balanced acc {balanced:.4f}, the mean of the classes' accuracies")
        if count < data.test:
            console.print(f"      on {count:,} of the {data.test:,} test images", style="bold yellow")
    elif own := {name: value for name, value in results.metrics.items() if value is not None and name[:4] == "test"}:
        for line in (f"test  {'  '.join(f'{name} {value:.4g}' for name, value in own.items())}", f"      {which}"):
            console.print(line, style="bold green")
    elif results.times_tested:
        console.print(f"      {which}; the test logged no metric named test/...")
    if results.cut_short is not None:
        console.print(f"      cut short by {results.cut_short}: ranked below whole runs", style="bold yellow")
    if data.stand_in_for is not None:
        name = data.stand_in_for
        console.print(f"      on a stand-in for {name}: these metrics say nothing about {name}", style="bold red")
    elif data.remark:
        console.print(f"      {data.remark}", style="yellow")


def normalisation(data: ImageDataModule) -> str:
    """What images are normalised by, which a plain state dict does not hold."""
    mean, std = (" ".join(f"{value:.4g}" for value in values) for values in (data.mean, data.std))
    return f"images normalised by mean {mean}, std {std}"
