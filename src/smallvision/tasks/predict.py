"""Predict the classes of images from anywhere; a checkpoint is all that it takes."""

import csv
import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.results import DataResults, ModelResults, Results, Seconds
from smallvision.core.rng import stream
from smallvision.core.run_dir import RunDir, atomic_write
from smallvision.data.dataset import origin
from smallvision.data.image_files import MODES, FoundImages, ImageFile, find_images, none_readable
from smallvision.data.preprocess import InputSpec, LoadedImage, dataset_kind, load_in_chunks
from smallvision.reports.predictions import (
    Prediction,
    PredictionPrinter,
    Tile,
    accuracy_line,
    csv_header,
    csv_row,
    draw_sheet,
    one_line,
)
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.model_spec import shape_str
from smallvision.training.predictor import Predictor

CHUNK, CHUNK_PIXELS = 256, 4_000_000  # images, and pixels of all of them, in memory at a time
# Of saliency maps: noisy copies of each image; their standard deviation, as a fraction of the span of the image's
# values; the percentile that becomes 1, as a few pixels would darken all others.
COPIES, NOISE, BRIGHT = 25, 0.15, 99.0


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> Results:
    """Write predictions.csv and the contact sheet predictions.png to the run directory."""
    assert run_dir is not None
    assert isinstance(checkpoint, Checkpoint)
    assert config.predict is not None
    console = Console()
    found = find_images(config.images or [], sys.stdin.buffer if sys.stdin else io.BytesIO())
    predictor = Predictor.from_checkpoint(checkpoint, config)
    spec = input_spec(predictor, config.data.name, config.predict.polarity, config.predict.resize)
    print_summary(console, config, predictor, found, run_dir)
    names = [file.name for file in found.files]
    printer = PredictionPrinter(console, names, predictor.spec.classes, config.predict.top_k)
    counts, dataset, warning = printer.counts, checkpoint.dataset, stand_in_warning(predictor)
    started = time.perf_counter()
    try:
        tiles = predict_all(config, predictor, found.files, spec, printer, run_dir.path)
        seconds = time.perf_counter() - started
        run_dir.describe(config.to_dict(), predictor.device.hardware)
        if tiles:
            title = one_line(f"{config.model.name}, trained on {dataset['name']}")
            with atomic_write(run_dir.path / "predictions.png") as scratch:
                draw_sheet(tiles, scratch, title, warning)
    except BrokenPipeError:
        raise
    except OSError as error:  # of the run directory; what is wrong with an image is in its prediction
        raise UserError(f"{run_dir.path}: cannot be written: {error.strerror}; choose another") from None
    results = Results(  # without metrics: these images are no test set of the run
        status="completed",
        task=config.task,
        seed=config.seed,
        device=predictor.device.kind,
        precision=predictor.device.precision,
        data=DataResults(dataset["name"], dataset["source"], dataset["fingerprint"], dataset.get("stand_in_for")),
        model=ModelResults(config.model.name, predictor.parameter_count),
        optimizer=config.optimizer.name,
        epochs=checkpoint.epoch,
        best_checkpoint=str(config.checkpoint),
        seconds=Seconds(total=run_dir.seconds),
        images_per_second=counts.readable / seconds,
        extra={key: getattr(counts, key) for key in ("images", "unreadable", "inverted", "labelled", "correct")},
    )
    results.write(run_dir)
    printer.print_notes()
    if counts.labelled:
        console.print()
        console.print(accuracy_line(counts), style="bold green")
        if known := count_training_images(config, found.files):
            message = f"{known:,} of them lie in {config.data.extra['path']}, on which the network was trained"
            console.print(f"{message}: task=test measures the accuracy on images that it has not seen", style="yellow")
    if warning:
        console.print(warning, style="bold red")
    console.print()
    written = {"table": "predictions.csv"} | ({"sheet": "predictions.png"} if tiles else {})
    console.fields({name: str(run_dir.path / file) for name, file in written.items()})
    return results


def count_training_images(config: Config, files: Sequence[ImageFile]) -> int:
    """How many of the files lie in the folder that the network learned from."""
    path = config.data.extra.get("path")
    if config.data.name != "folder" or not isinstance(path, str):
        return 0
    root = os.path.realpath(os.path.expanduser(path))  # noqa: PTH111 - Path's own may raise
    train, test = (os.path.join(root, part) for part in ("train", "test"))  # noqa: PTH118
    root = train if os.path.isdir(train) and os.path.isdir(test) else root  # noqa: PTH112
    contents = (one.content for one in files)
    return sum(isinstance(one, Path) and os.path.realpath(one).startswith(f"{root}/") for one in contents)


def input_spec(predictor: Predictor, data: str, polarity: str = "auto", resize: str = "auto") -> InputSpec:
    """How images are prepared for a network that was trained with ``data=``.

    Raises UserError where it takes neither grey nor colour images.
    """
    checkpoint, (channels, height, width) = predictor.checkpoint, predictor.spec.shape
    if channels not in MODES:
        raise UserError(
            f"{checkpoint.path}: takes images of {channels} channels; image files have 1 (grey) or 3 (colour)"
        )
    dataset = dataset_kind(data, checkpoint.dataset["name"], predictor.spec.mean)
    return InputSpec(channels, height, width, dataset, polarity, resize)


def predict_all(
    config: Config,
    predictor: Predictor,
    files: Sequence[ImageFile],
    spec: InputSpec,
    printer: PredictionPrinter,
    directory: Path,
) -> list[Tile]:
    """Print and write the prediction of each image, in bounded memory; returns the tiles of the contact sheet.

    Raises UserError where no image can be read.
    """
    assert config.predict is not None
    tiles: list[Tile] = []
    sheet, classes = config.predict.contact_sheet, predictor.spec.classes
    chunk = min(config.data.eval_batch_size, CHUNK, 1 + CHUNK_PIXELS // (spec.height * spec.width))
    with atomic_write(directory / "predictions.csv") as scratch:
        with scratch.open("w", encoding="utf-8", newline="") as text:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(csv_header(printer.top))
            for images in load_in_chunks(files, spec, chunk, sheet):
                for image, prediction in zip(images, predict_chunk(predictor, images, printer), strict=True):
                    printer.print(prediction)
                    table.writerow(csv_row(prediction, printer.top))
                    if image.input is None or image.thumbnail is None or len(tiles) == sheet:
                        continue
                    seen, heat = image.input.pixels, None
                    if config.predict.saliency:
                        label = classes.index(prediction.top[0][0])
                        heat = saliency(predictor, torch.from_numpy(seen), label, config.seed, number=len(tiles))
                    tiles.append(Tile(prediction, image.thumbnail, seen, heat))
        if not printer.counts.readable:
            raise UserError(one_line(none_readable(config.images or [], *printer.first_error, len(files))))
    return tiles


def predict_chunk(predictor: Predictor, images: Sequence[LoadedImage], printer: PredictionPrinter) -> list[Prediction]:
    """The network's answer for each image that could be read, the error for the others."""
    inputs = [image.input for image in images if image.input is not None]
    if inputs:
        pixels = torch.from_numpy(np.stack([one.pixels for one in inputs]))
        probabilities, labels = predictor.probabilities(pixels).topk(printer.top)
        answers = iter(zip(labels.tolist(), probabilities.tolist(), strict=True))
    predictions = []
    for image in images:
        if image.input is None:
            predictions.append(Prediction(image.file.name, error=image.error))
            continue
        top = [(predictor.spec.classes[label], probability) for label, probability in zip(*next(answers), strict=True)]
        content = image.file.content
        actual = printer.labels.of(content) if isinstance(content, Path) else None
        predictions.append(Prediction(image.file.name, top, actual, image.input.polarity, image.input.resize))
    return predictions


def saliency(predictor: Predictor, image: Tensor, label: int, seed: int, number: int) -> npt.NDArray[np.float32]:
    """How much each pixel of ``image`` (uint8, C x H x W) changes the logit of class ``label``: H x W, from 0 to 1.

    The magnitude of the gradient, the largest over the channels (K. Simonyan et al., arXiv:1312.6034), averaged
    over noisy copies (SmoothGrad, D. Smilkov et al., arXiv:1706.03825), in float32 on any device. ``seed`` and
    ``number`` name the noise, so that the same image gives the same map.
    """
    floats, device = image.float(), predictor.normalise.scale.device
    noise = torch.randn((COPIES, *image.shape), generator=stream(seed, "saliency", number))
    copies = (floats + noise * (NOISE * (floats.max() - floats.min()))).to(device).requires_grad_()
    with torch.enable_grad():
        logits = predictor.mean_logits(copies)
        (gradients,) = torch.autograd.grad(logits[:, label].sum(), copies)
    heat = gradients.abs().amax(1).mean(0).float().cpu().numpy()
    brightest = float(np.percentile(heat, BRIGHT)) or float(heat.max()) or 1.0
    return (heat / brightest).clip(0, 1)


def print_summary(console: Console, config: Config, predictor: Predictor, found: FoundImages, run_dir: RunDir) -> None:
    """Which network predicts what, before it does."""
    checkpoint = predictor.checkpoint
    if warning := stand_in_warning(predictor):
        console.print(f"  {warning}", style="bold red")
    console.fields(
        {
            "network": f"{config.model.name}, {predictor.parameter_count:,} parameters, epoch {checkpoint.epoch}",
            "trained on": one_line(origin(str(checkpoint.dataset["name"]), str(checkpoint.dataset["source"]))),
            "": f"{shape_str(predictor.spec.shape)}, {len(predictor.spec.classes)} classes",
            "device": str(predictor.device),
            "images": f"{len(found.files):,}",
            "run": str(run_dir.path),
        }
    )
    if found.skipped:
        console.print(f"  note       skipped {found.skipped:,} files whose names are not those of images")
    console.print()


def stand_in_warning(predictor: Predictor) -> str | None:
    """For a network that was trained on a stand-in for the data set that was asked for."""
    data = predictor.checkpoint.dataset
    named = data.get("stand_in_for")
    if named is None:
        return None
    return one_line(f"STAND-IN: trained on {data['name']}, not on {named}: the predictions mean nothing for {named}")
