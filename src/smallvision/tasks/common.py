"""What the tasks say and write alike."""

from typing import Any

from smallvision.config.schema import Config, Optimizer
from smallvision.core.console import Console
from smallvision.core.run_dir import RunDir
from smallvision.data.module import ImageDataModule
from smallvision.reports.statistics import wilson
from smallvision.training.factory import Experiment
from smallvision.training.model_spec import shape_str

METRICS = ("train/loss", "train/acc", "val/loss", "val/acc", "test/loss", "test/acc")


def summary(console: Console, config: Config, experiment: Experiment, run: RunDir, title: str) -> None:
    """The choices of a run, before anything long happens."""
    record, sizes = experiment.data.dataset, experiment.data.sizes
    console.print(f"smallvision: {title}", style="bold")
    if record.stand_in_for is not None:
        console.print(f"  STAND-IN: these images are not {record.stand_in_for}", style="bold red")
    console.fields(
        {
            "data": f"{record.name}, {record.source}",
            "": f"{sizes['train']:,} train, {sizes['val']:,} val, {sizes['test']:,} test;"
            f" {shape_str(record.shape)}, {len(record.classes)} classes",
            "network": f"{config['model']['name']}, {experiment.parameters:,} parameters,"
            f" {experiment.flops / 1e6:.3g} MFLOP an image",
        }
    )
    if config["task"] == "fit":
        console.fields(
            {
                "optimizer": f"{optimizer_words(config.optimizer, experiment)},"
                f" lr {config['optimizer']['lr']:g}, {config['scheduler']['name']} schedule,"
                f" batches of {config['data']['batch_size']}",
                "seed": f"{config['seed']}",
            }
        )
    console.fields({"device": str(experiment.device), "run": str(run.directory)})
    if record.remark:
        console.print(f"  note       {record.remark}", style="yellow")


def optimizer_words(section: Optimizer, experiment: Experiment) -> str:
    """Its name, the kernel that the device gets where there is a choice, and the optimizer of what Muon leaves."""
    words = section.name + _kernel(experiment.device.with_kernel(section).extra)
    if section.rest is None:
        return words
    rest = experiment.device.with_kernel(section.rest)
    return f"{words} and {rest.target.rpartition('.')[2].lower()}{_kernel(rest.extra)}"


def _kernel(arguments: dict[str, Any]) -> str:
    return " (fused)" if arguments.get("fused") else " (foreach)" if arguments.get("foreach") else ""


def results(config: Config, experiment: Experiment, run: RunDir, status: str) -> dict[str, Any]:
    """The parts of results.json that do not depend on the task."""
    record, sizes = experiment.data.dataset, experiment.data.sizes
    figures: dict[str, Any] = {
        "status": status,
        "task": config["task"],
        "seed": config["seed"],
        "device": experiment.device.kind,
        "precision": experiment.device.precision,
        "data": {**record.identity, **sizes},
        "model": {"name": config["model"]["name"], "parameters": experiment.parameters},
        "optimizer": config["optimizer"]["name"],
        "epochs": 0,
        "steps": 0,
        "metrics": dict.fromkeys(METRICS),
        "best_checkpoint": None,
        "seconds": {"total": run.seconds, "fit": None, "test": None},
        "images_per_second": None,
    }
    return figures


def test_line(metrics: dict[str, float], count: int, which: str) -> str:
    """The test result in words, with its interval."""
    accuracy, loss = metrics["test/acc"], metrics["test/loss"]
    low, high = wilson(round(accuracy * count), count)
    return f"test  loss {loss:.4f}  acc {accuracy:.4f}  (95 % interval {low:.4f} to {high:.4f}, n = {count:,}) {which}"


def print_if_partial(console: Console, tested: int, experiment: Experiment) -> None:
    """That only a part of the test images was tested, where trainer.limit_test_batches says so."""
    count = experiment.data.sizes["test"]
    if tested < count:
        console.print(f"      on {tested:,} of the {count:,} test images", style="bold yellow")


def stand_in_line(stand_in_for: str) -> str:
    return f"      on a stand-in for {stand_in_for}: this figure says nothing about {stand_in_for}"


def normalised_by(data: ImageDataModule) -> str:
    """What images are normalised by, which a plain state dict does not say."""
    numbers = {"mean": data.mean, "std": data.std}
    words = ", ".join(f"{key} {' '.join(f'{one:.4g}' for one in of)}" for key, of in numbers.items())
    return f"images normalised by {words}"
