"""The page of a run, drawn at its end from what lies in its directory."""

import time
from typing import Any

import numpy as np
from torch import Tensor, nn

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.run_dir import RunDir, atomic_write
from smallvision.training.classifier import Classifier
from smallvision.training.factory import Experiment
from smallvision.training.layers import Whiten

MOST_MISTAKES, MOST_SAMPLES, MOST_FILTERS = 24, 24, 64


def draw_report(console: Console, experiment: Experiment, run: RunDir, probabilities: Tensor, trained: bool) -> None:
    """Write report.npz and, from it and the run's other files, report.html.

    ``trained``: whether it is a run that trained, so that there are images to show that it learnt from. The
    figures are safe by now: whatever goes wrong here is told, and the run is none the worse.
    """
    if not run.first:
        return
    from smallvision.reports import run_page  # matplotlib takes its time, and only this needs it

    started = time.perf_counter()
    path = run.directory / "report.html"
    try:
        with atomic_write(run.directory / "report.npz") as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, **collect(experiment, probabilities, trained))
        run_page.write_page(run.directory, path)
    except Exception as error:  # of libraries, of the disk
        console.print(f"  report.html could not be drawn ({type(error).__name__}: {error})", style="yellow")
        return
    console.fields({"report": f"{path} ({time.perf_counter() - started:.1f} s)"})


def log_final(
    console: Console,
    config: Config,
    experiment: Experiment,
    metrics: dict[str, float | None],
    probabilities: Tensor,
) -> None:
    """What a logger takes at a run's end; one that fails does not take the run with it."""
    if config["logger"]["name"] != "tensorboard" or not experiment.model.trainer.is_global_zero:
        return
    from smallvision.training import loggers as tensorboard

    try:
        tensorboard.tell(
            experiment.model.trainer.loggers,
            {key: value for key, value in config.items() if key not in ("resume", "task", "report")},
            metrics,
            experiment.model,
            next(iter(experiment.data.train_dataloader())),
            probabilities,
            experiment.data.dataset.test_labels,
            graph=bool(config["logger"].get("graph")),
        )
    except Exception as error:  # of libraries, of the disk
        console.print(f"  TensorBoard could not be told all ({type(error).__name__}: {error})", style="yellow")


def collect(experiment: Experiment, tested: Tensor, trained: bool) -> dict[str, Any]:
    """The arrays that the page shows: ``classes``, their names; pictures as uint8, N x H x W x C.

    ``test_probabilities`` (float32, N x classes) and ``test_labels`` of the images that were tested;
    ``mistake_index`` and ``mistakes``, the surest first; ``samples`` and ``sample_labels``, of the first
    batch of training; ``filters`` (float32, N x C x H x W) of the first layer.
    """
    arrays: dict[str, Any] = {"classes": np.array(experiment.data.dataset.classes)}
    data, model = experiment.data, experiment.model
    if len(tested):
        probabilities = tested.numpy()
        labels = data.dataset.test_labels[: len(probabilities)].numpy()
        predicted = probabilities.argmax(1)
        wrong = np.flatnonzero(predicted != labels)
        surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:MOST_MISTAKES]
        arrays |= {
            "test_probabilities": probabilities,
            "test_labels": labels.astype(np.int32),
            "mistake_index": surest,
            "mistakes": _pictures(data.dataset.test_images[surest.tolist()]),
        }
    if trained:
        images, classes = next(iter(data.train_dataloader()))
        arrays |= {
            "samples": _pictures(images[:MOST_SAMPLES]),
            "sample_labels": classes[:MOST_SAMPLES].cpu().numpy().astype(np.int32),
        }
    filters = first_filters(model, data.dataset.shape)
    if filters is not None:
        arrays["filters"] = filters.detach().float().cpu().numpy()[:MOST_FILTERS]
    return arrays


def first_filters(model: Classifier, shape: tuple[int, int, int]) -> Tensor | None:
    """What the first layer looks for, as pictures (N x C x H x W), where that is pictures: a convolution
    over grey or colour of 3 pixels or more, or a linear layer over all pixels.
    """
    whiten = model.predictor.whiten
    if isinstance(whiten, Whiten):  # its second half is the first, negated
        return whiten.kernel[: len(whiten.kernel) // 2] if shape[0] in (1, 3) else None
    layer: Any = next(
        (one for one in model.predictor.network.modules() if isinstance(one, (nn.Conv2d, nn.Linear))), None
    )
    if isinstance(layer, nn.Conv2d) and layer.in_channels in (1, 3) and min(layer.kernel_size) >= 3:
        return layer.weight
    pixels = shape[0] * shape[1] * shape[2]
    if isinstance(layer, nn.Linear) and layer.in_features == pixels and shape[0] in (1, 3):
        return layer.weight.view(-1, *shape)
    return None


def _pictures(images: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())
