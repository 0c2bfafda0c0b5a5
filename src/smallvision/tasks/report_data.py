"""The page of a run, written at its end, and the arrays that it shows."""

import time

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from smallvision.core.console import Console
from smallvision.core.run_dir import RunDir, atomic_write, write_text
from smallvision.reports.run_view import ReportArrays, RunView
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
    from smallvision.reports import pages  # with matplotlib, which is slow to import

    started, page = time.perf_counter(), run_dir.report_html
    try:
        with atomic_write(run_dir.report_npz) as scratch, scratch.open("wb") as file:
            np.savez_compressed(file, **collect(experiment, probabilities, trained)._asdict())
        write_text(page, pages.run_page(RunView.read(run_dir.path)))
    except Exception as error:  # of libraries, of the disk
        console.print(f"  {page.name} could not be written ({type(error).__name__}: {error})", style="yellow")
        return
    console.fields({"report": f"{page} ({time.perf_counter() - started:.1f} s)"})


def collect(experiment: Experiment, probabilities: Tensor, trained: bool) -> ReportArrays:
    """What the page shows of the tested images, of the training images where it is ``trained``, and of the network."""
    data, dataset = experiment.data, experiment.data.dataset
    tested, labels = probabilities.numpy(), dataset.test_labels[: len(probabilities)].numpy()
    layers = experiment.layers
    arrays = ReportArrays(
        classes=np.array(dataset.classes),
        layers=np.array([layer[:2] for layer in layers], np.str_).reshape(-1, 2),
        layer_counts=np.array([layer[2:] for layer in layers], np.int64).reshape(-1, 2),
    )
    if len(tested):
        wrong = np.flatnonzero(tested.argmax(1) != labels)
        mistakes = wrong[np.argsort(-tested[wrong].max(1), kind="stable")][:MAX_MISTAKES]
        arrays = arrays._replace(
            test_probabilities=tested,
            test_labels=labels.astype(np.int32),
            mistake_index=mistakes,
            mistakes=_channels_last(dataset.test_images[mistakes.tolist()]),
        )
    if trained:
        images, classes = next(iter(data.train_dataloader()))
        samples, sample_labels = images[:MAX_SAMPLES], classes[:MAX_SAMPLES].cpu().numpy().astype(np.int32)
        arrays = arrays._replace(samples=_channels_last(samples), sample_labels=sample_labels)
    filters = None if experiment.predictor is None else first_filters(experiment.predictor)
    if filters is not None:
        arrays = arrays._replace(filters=filters[:MAX_FILTERS].detach().float().cpu().numpy())
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


def _channels_last(images: Tensor) -> npt.NDArray[np.uint8]:
    return np.ascontiguousarray(images.cpu().permute(0, 2, 3, 1).numpy())
