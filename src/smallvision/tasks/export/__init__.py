"""Write a trained network as a file for use elsewhere, verify the file, and describe the network in a model card."""

import os
from pathlib import Path

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir, command, write_text
from smallvision.reports.formatting import count, duration, shorten
from smallvision.tasks.export import card, manifest
from smallvision.tasks.export.formats import FORMATS
from smallvision.tasks.export.manifest import Export
from smallvision.tasks.export.metadata import identity, make_metadata
from smallvision.tasks.export.verify import LIMIT, TestImages, find_images
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.predictor import Predictor


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> None:
    """Write the network of ``checkpoint`` to the run directory, in the chosen format, with its manifest and model card.

    Raises UserError where the directory cannot be written, or the file does not compute what the network does.
    """
    assert run_dir is not None
    assert isinstance(checkpoint, Checkpoint)
    directory = run_dir.path
    elsewhere = "hydra.run.dir=DIRECTORY chooses another place"
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise UserError(f"{directory}: cannot be written; {elsewhere} for the export")
    console = Console()
    in_float32 = config.updated(
        {"device": {"name": "cpu", "precision": "32", "memory_format": "contiguous", "compile": False}}
    )
    predictor = Predictor.from_checkpoint(checkpoint, in_float32)
    saved, given = checkpoint.config, config.to_dict()
    chosen = any(given[key] != saved.get(key) for key in ("data", "data_dir"))
    images = find_images(config, predictor.spec, chosen)
    form = FORMATS[str(config.format)]
    print_summary(console, predictor, images, form.name)
    metadata = make_metadata(predictor)
    of = identity(predictor, metadata)
    export = form.export(predictor, metadata, of, images, directory)
    files = {name: each.file for name, each in FORMATS.items()}
    exports = {each.format: each for each in manifest.read(directory, files, of)} | {export.format: export}
    in_order = [exports[name] for name in FORMATS if name in exports]
    others = [file for name, file in files.items() if name not in exports and (directory / file).exists()]
    page = directory / card.FILE
    try:
        manifest.write(directory, in_order)
        write_text(page, card.render(predictor, in_order, others))
    except OSError as error:
        raise UserError(f"{page}: cannot be written: {error.strerror}; {elsewhere}") from None
    print_result(console, export, directory)
    console.print()
    console.fields({"how to use": str(page)})
    for name in FORMATS:
        if name not in exports:
            console.fields({"also": command("task=export", f"checkpoint={config.checkpoint}", f"format={name}")})


def print_summary(console: Console, predictor: Predictor, images: TestImages, name: str) -> None:
    """What is exported, before anything that takes long."""
    spec, checkpoint = predictor.spec, predictor.checkpoint
    data, views = checkpoint.dataset, len(predictor.tta)
    console.print(f"smallvision: exporting {checkpoint.path} as {name}", style="bold")
    if data.get("stand_in_for") is not None:
        console.print(f"  STAND-IN: trained on {data['name']}, not on {data['stand_in_for']}", style="bold red")
    console.fields(
        {
            "data": shorten(f"{data['name']}, {data['source']}", 300),
            "network": f"{spec.model['name']}, {predictor.parameter_count:,} parameters,"
            f" {count(checkpoint.epoch, 'epoch')}" + (f", {views} views" if views > 1 else ""),
            "input": f"images, uint8, N x {' x '.join(map(str, spec.shape))}",
            "output": f"probabilities, float32, N x {len(spec.classes)}",
            "compared": f"on {images.description}",
        }
    )
    if images.caution is not None:
        console.print(f"  note       {images.caution}", style="yellow")


def print_result(console: Console, export: Export, directory: Path) -> None:
    """The file, and how closely it agrees with the network."""
    console.print()
    console.print(
        f"same  largest difference {export.difference:.2g} ({LIMIT:g} allowed), {export.agreed:,} of"
        f" {export.images:,} predicted classes agree",
        style="bold green",
    )
    console.fields(
        {
            "file": f"{directory / export.file}, {export.bytes:,} bytes",
            "verified": f"in {export.runtime}; in batches of {export.batches} images",
            "time": duration(export.seconds),
        }
    )
