"""Write a trained network as a file for use elsewhere, verify the file, and describe the network in a model card."""

import math
import os

import torch

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.rng import stream
from smallvision.core.run_dir import RunDir, assign, command, using
from smallvision.data.dataset import origin
from smallvision.reports.formatting import count, duration, shorten
from smallvision.tasks.export import card
from smallvision.tasks.export.formats import FORMATS, LIMIT, TestImages
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.factory import make_data
from smallvision.training.model_spec import ModelSpec, shape_str
from smallvision.training.predictor import Predictor

MIN_IMAGES, MAX_IMAGES = 16, 1_000  # that an export is compared on
MAX_NUMBERS = 12_000_000  # in all images: of large images there are fewer


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> None:
    """Write the network of ``checkpoint`` to the run directory, in the chosen format, with its model card.

    Raises UserError where the directory cannot be written, or the file does not compute what the network does.
    """
    assert run_dir is not None
    assert isinstance(checkpoint, Checkpoint)
    directory = run_dir.path
    elsewhere = "hydra.run.dir=DIRECTORY chooses another place"
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise UserError(f"{directory}: cannot be written; {elsewhere} for the export")
    in_float32 = {"name": "cpu", "precision": "32", "memory_format": "contiguous", "compile": False}
    predictor = Predictor.from_checkpoint(checkpoint, config.updated({"device": in_float32}))
    given, saved = config.to_dict(), checkpoint.config
    images = find_images(config, predictor.spec, any(given[key] != saved.get(key) for key in ("data", "data_dir")))
    form = FORMATS[str(config.format)]
    console = Console()
    print_summary(console, predictor, images)
    export = form.export(predictor, images, directory)
    try:
        exports = card.update(directory, predictor, export, {name: each.file for name, each in FORMATS.items()}, LIMIT)
    except OSError as error:
        raise UserError(f"{directory / card.FILE}: cannot be written: {error.strerror}; {elsewhere}") from None
    agreement = f"largest difference {export.difference:.2g} ({LIMIT:g} allowed)"
    console.print()
    console.print(
        f"same  {agreement}, {export.agreed:,} of {export.images:,} predicted classes agree", style="bold green"
    )
    console.fields(
        {
            "file": f"{directory / export.file}, {export.bytes:,} bytes",
            "verified": f"in {export.runtime}; in batches of {export.batches} images",
            "time": duration(export.seconds),
        }
    )
    console.print()
    console.fields({"how to use": str(directory / card.FILE)})
    for name in FORMATS:
        if name not in exports:
            file = assign("checkpoint", config.checkpoint)
            console.fields({"also": command("task=export", file, f"format={name}", *using(config.use))})


def print_summary(console: Console, predictor: Predictor, images: TestImages) -> None:
    """What is exported, before anything that takes long."""
    spec, checkpoint = predictor.spec, predictor.checkpoint
    data, views = checkpoint.dataset, len(predictor.tta)
    if data.get("stand_in_for") is not None:
        console.print(f"  STAND-IN: trained on {data['name']}, not on {data['stand_in_for']}", style="bold red")
    console.fields(
        {
            "data": shorten(origin(data["name"], data["source"]), 300),
            "network": f"{spec.model['name']}, {predictor.parameter_count:,} parameters,"
            f" {count(checkpoint.epoch, 'epoch')}" + (f", {views} views" if views > 1 else ""),
            "input": f"images, uint8, N x {' x '.join(map(str, spec.shape))}",
            "output": f"probabilities, float32, N x {len(spec.classes)}",
            "compared": f"on {images.description}",
        }
    )
    if images.caution is not None:
        console.print(f"  note       {images.caution}", style="yellow")


def find_images(config: Config, spec: ModelSpec, chosen: bool) -> TestImages:
    """Test images of ``config.data``; where there are none, training images; where the data are missing, noise.

    ``chosen``: whether the data are the user's choice and not the checkpoint's own. Such data are not replaced:
    raises UserError where they are missing or of another shape.
    """
    name = config.data.name
    count = min(MAX_IMAGES, max(MIN_IMAGES, MAX_NUMBERS // math.prod(spec.shape)))
    try:
        dataset = make_data(config).dataset
        if dataset.shape != spec.shape or len(dataset.classes) != len(spec.classes):
            raise UserError(
                f"data={name}: images of {shape_str(dataset.shape)} in {len(dataset.classes)} classes;"
                f" the checkpoint is for {shape_str(spec.shape)} in {len(spec.classes)}"
            )
    except UserError as error:
        if chosen:
            raise
        noise = stream(config.seed, "export")
        images = torch.randint(0, 256, (count, *spec.shape), dtype=torch.uint8, generator=noise)
        return TestImages(images, f"{count:,} random images", f"the images of {name} are missing ({error})")
    part, images = "test", dataset.test_images[:count]
    if not len(images):
        part, images = "training", dataset.train_images[:count]
    description = f"{len(images):,} {part} images of {dataset.name}"
    if dataset.stand_in_for is None:
        return TestImages(images, description)
    caution = f"these images are not {dataset.stand_in_for} ({dataset.source})"
    return TestImages(images, f"{description}, a stand-in for {dataset.stand_in_for}", caution)
