"""Predict the classes of images from anywhere; a checkpoint is all that it takes."""

import csv
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from smallvision.config import targets
from smallvision.config.compose import compose
from smallvision.config.resolve import checkpoint_to_read, force, resolve_config
from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.results import DataResults, ModelResults, Results, Seconds
from smallvision.core.rng import stream
from smallvision.core.run_dir import RunDir, assign, atomic_write, using
from smallvision.data.dataset import origin
from smallvision.data.image_files import MODES, FoundImages, ImageFile, UnreadableImage, find_images, none_readable
from smallvision.data.preprocess import InputSpec, LoadedImage, Preprocessed, dataset_kind, load_in_chunks
from smallvision.models.pretrained import last_layer
from smallvision.reports.predictions import (
    FolderLabels,
    Prediction,
    PredictionPrinter,
    Tile,
    accuracy_line,
    csv_header,
    csv_row,
    draw_sheet,
    one_line,
)
from smallvision.training.checkpoint import BareWeights, Checkpoint, read_checkpoint
from smallvision.training.model_spec import shape_str
from smallvision.training.predictor import Predictor

Images: TypeAlias = "str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8] | Tensor | Sequence[Images]"
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
    chunk = chunk_size(config, spec)
    with atomic_write(directory / "predictions.csv") as scratch:
        with scratch.open("w", encoding="utf-8", newline="") as text:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(csv_header(printer.top))
            for images in load_in_chunks(files, spec, chunk, sheet):
                for image, prediction in zip(
                    images, predict_chunk(predictor, images, printer.top, printer.labels), strict=True
                ):
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


def chunk_size(config: Config, spec: InputSpec) -> int:
    return min(config.data.eval_batch_size, CHUNK, 1 + CHUNK_PIXELS // (spec.height * spec.width))


def predict_chunk(
    predictor: Predictor, images: Sequence[LoadedImage], top_k: int, folders: FolderLabels
) -> list[Prediction]:
    """The network's answer for each image that could be read, the error for the others."""
    if any(image.input is not None for image in images):
        probabilities, labels = predictor.probabilities(_pixels(images)).topk(top_k)
        answers = iter(zip(labels.tolist(), probabilities.tolist(), strict=True))
    predictions = []
    for image in images:
        if image.input is None:
            predictions.append(Prediction(image.file.name, error=image.error))
            continue
        top = [(predictor.spec.classes[label], probability) for label, probability in zip(*next(answers), strict=True)]
        content = image.file.content
        actual = folders.of(content) if isinstance(content, Path) else None
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


class ImagePredictor(Predictor):
    """A trained model that takes images of any kind: what :func:`smallvision.load` gives.

    Images are a path, a folder or a glob; a Pillow image; an array of uint8, H x W, H x W x C or N x H x W x C; a
    tensor of uint8, H x W, C x H x W or N x C x H x W; or a list of those. They are prepared as task=predict does it,
    but for tensors of the network's own size and channels, which are taken as they are. Raises UserError for others.
    """

    input_spec: InputSpec
    chunk: int  # images that are prepared and classified at a time

    @classmethod
    def load(cls, path: str, device: str, use: list[str]) -> "ImagePredictor":
        """See :func:`smallvision.load`."""
        overrides = ["task=predict", assign("checkpoint", path), "images=-", assign("device", device), *using(use)]
        composed = compose(force(overrides))
        targets.use(use)
        if str(composed.checkpoint).endswith(".safetensors"):
            from smallvision.tasks.export import safetensors_file

            checkpoint = safetensors_file.load(composed.checkpoint).checkpoint
        else:
            file = checkpoint_to_read(composed, overrides)
            assert file is not None
            checkpoint = read_checkpoint(file)
        config = resolve_config(composed, overrides, checkpoint.config)
        predictor = cls.from_checkpoint(checkpoint, config)
        assert isinstance(predictor, ImagePredictor)
        predictor.input_spec = input_spec(predictor, config.data.name)
        predictor.chunk = chunk_size(config, predictor.input_spec)
        return predictor

    def predict(self, images: Images, top_k: int = 3) -> list[Prediction]:
        """Of each image its ``label``, its ``probability``, and the ``top`` classes with theirs."""
        labels, count = FolderLabels(self.spec.classes), min(top_k, len(self.spec.classes))
        return [one for chunk in self._chunks(images) for one in predict_chunk(self, chunk, count, labels)]

    def probabilities(self, images: Images) -> Tensor:
        """float32, N x classes, on the CPU."""
        found = [super(ImagePredictor, self).probabilities(_pixels(chunk)) for chunk in self._chunks(images)]
        return torch.cat([torch.empty(0, len(self.spec.classes)), *found])

    @torch.no_grad()
    def features(self, images: Images) -> Tensor:
        """What the network's last linear layer takes, without test-time views: float32, N x d, on the CPU."""
        head = last_layer(self.network, nn.Linear)
        if head is None or head.out_features != len(self.spec.classes):
            raise UserError("features: the network does not end in a linear layer")
        found = [torch.empty(0, head.in_features)]
        hook = head.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].float().cpu()))
        try:
            for chunk in self._chunks(images):
                with self.autocast():
                    self.logits(_pixels(chunk).to(self.normalise.scale.device))
        finally:
            hook.remove()
        return torch.cat(found)

    def _chunks(self, images: Images) -> Iterator[list[LoadedImage]]:
        """Some at a time; while they are at work, torch has the threads of the predictor's device."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.device.threads)
        try:
            fits = isinstance(images, Tensor) and images.dtype == torch.uint8 and images.shape[-3:] == self.spec.shape
            if isinstance(images, Tensor) and fits and images.numel():
                for part in images.cpu().reshape(-1, *self.spec.shape).split(self.chunk):
                    inputs = [Preprocessed(pixels, "kept", "unchanged") for pixels in part.numpy()]
                    yield [LoadedImage(ImageFile("image", b""), one) for one in inputs]
                return
            for loaded in load_in_chunks(as_files(images), self.input_spec, self.chunk, 0):
                for image in loaded:
                    if image.input is None:
                        raise UnreadableImage(image.file.name, str(image.error))
                yield loaded
        finally:
            torch.set_num_threads(before)


def _pixels(images: Sequence[LoadedImage]) -> Tensor:
    """Of those that could be read: uint8, N x C x H x W."""
    return torch.from_numpy(np.stack([image.input.pixels for image in images if image.input is not None]))


def as_files(images: Images) -> list[ImageFile]:
    """The images, one by one. Raises UserError for what is none."""
    if isinstance(images, (str, os.PathLike)):
        return find_images(os.fspath(images)).files
    if isinstance(images, Tensor):
        images = images.cpu().movedim(-3, -1).numpy() if images.ndim > 2 else images.cpu().numpy()
    if isinstance(images, (list, tuple)) or (isinstance(images, np.ndarray) and images.ndim == 4):
        return [file for one in images for file in as_files(one)]
    kind = type(images).__name__
    if isinstance(images, np.ndarray):
        kind = f"{images.dtype}, {shape_str(images.shape)}"
        if images.dtype == np.uint8 and images.ndim > 1 and images.shape[2:] in ((), (1,), (3,), (4,)):
            images = Image.fromarray(images[..., 0] if images.shape[2:] == (1,) else images)
    if not isinstance(images, Image.Image):
        raise UserError(f"images: {kind}: must be paths, Pillow images, or uint8 of H x W, H x W x C or N x H x W x C")
    return [ImageFile("image", images)]


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
