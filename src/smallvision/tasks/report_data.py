"""The page of a run, written at its end, and the arrays that it shows."""

import time
from typing import Any

import numpy as np
from torch import Tensor, nn

from smallvision.core.console import Console
from smallvision.core.run_dir import RunDir, atomic_write
from smallvision.training.factory import Experiment
from smallvision.training.predictor import Predictor, Whiten

MAX_MISTAKES, MAX_SAMPLES, MAX_FILTERS = 24, 24, 64
IMAGE_CHANNELS = (1, 3)  # that can be shown: grey and colour


def write_report(
    console: Console, experiment: Experiment, run_dir: RunDir, probabilities: Tensor, trained: bool
) -> None:
    """Write report.npz and, from it and the run's other files, report.html.

    ``trained``: whether the page shows training images, too. All results have been written before, so an error is
    printed and ends nothing.
    """
    if not run_dir.is_writer:
        return
    from smallvision.reports import run_page  # with matplotlib, which is slow to import

    started, page = time.perf_counter(), run_dir.report_html
    try:
        with atomic_write(run_dir.report_npz) as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, **collect(experiment, probabilities, trained))
        run_page.write_page(run_dir.path, page)
    except Exception as error:  # of libraries, of the disk
        console.print(f"  {page.name} could not be written ({type(error).__name__}: {error})", style="yellow")
        return
    console.fields({"report": f"{page} ({time.perf_counter() - started:.1f} s)"})


def collect(experiment: Experiment, probabilities: Tensor, trained: bool) -> dict[str, Any]:
    """The arrays of report.npz; images are uint8, N x H x W x C.

    ``classes``: their names. ``test_probabilities`` (float32, N x classes) and ``test_labels`` of the tested images.
    ``mistake_index`` and ``mistakes``: the misclassified images of the highest confidence, in falling order.
    ``samples`` and ``sample_labels`` of the first training batch. ``filters`` (float32, N x C x H x W) of the first
    layer.
    """
    data, dataset = experiment.data, experiment.data.dataset
    arrays: dict[str, Any] = {"classes": np.array(dataset.classes)}
    if len(probabilities):
        tested, labels = probabilities.numpy(), dataset.test_labels[: len(probabilities)].numpy()
        wrong = np.flatnonzero(tested.argmax(1) != labels)
        mistakes = wrong[np.argsort(-tested[wrong].max(1), kind="stable")][:MAX_MISTAKES]
        arrays |= {
            "test_probabilities": tested,
            "test_labels": labels.astype(np.int32),
            "mistake_index": mistakes,
            "mistakes": _channels_last(dataset.test_images[mistakes.tolist()]),
        }
    if trained:
        images, classes = next(iter(data.train_dataloader()))
        arrays |= {
            "samples": _channels_last(images[:MAX_SAMPLES]),
            "sample_labels": classes[:MAX_SAMPLES].cpu().numpy().astype(np.int32),
        }
    filters = first_filters(experiment.model.predictor)
    if filters is not None:
        arrays["filters"] = filters[:MAX_FILTERS].detach().float().cpu().numpy()
    return arrays


def first_filters(predictor: Predictor) -> Tensor | None:
    """The weights of the first layer as images, N x C x H x W, where they are like images: of a convolution over grey
    or colour with a kernel of 3 x 3 or more, or of a linear layer over all pixels.
    """
    shape = predictor.spec.shape
    if isinstance(predictor.whiten, Whiten):  # its second half is its first, negated
        kernel = predictor.whiten.kernel
        return kernel[: len(kernel) // 2] if shape[0] in IMAGE_CHANNELS else None
    layers = (layer for layer in predictor.network.modules() if isinstance(layer, (nn.Conv2d, nn.Linear)))
    layer = next(layers, None)
    if isinstance(layer, nn.Conv2d) and layer.in_channels in IMAGE_CHANNELS and min(layer.kernel_size) >= 3:
        return layer.weight
    if isinstance(layer, nn.Linear) and layer.in_features == np.prod(shape) and shape[0] in IMAGE_CHANNELS:
        return layer.weight.view(-1, *shape)
    return None


def _channels_last(images: Tensor) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())
