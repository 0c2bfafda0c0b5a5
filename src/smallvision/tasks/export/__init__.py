"""A trained network as a file for elsewhere, proven right after it is written, and its card."""

import os
from pathlib import Path
from typing import Any

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir, command, write_text
from smallvision.reports.formatting import duration
from smallvision.tasks.export import card, record
from smallvision.tasks.export.compared import LIMIT
from smallvision.tasks.export.figures import figures
from smallvision.tasks.export.formats import FORMATS, export
from smallvision.tasks.export.module import in_float32, standalone
from smallvision.tasks.export.record import Export
from smallvision.tasks.export.said import identity, own_config, said
from smallvision.tasks.export.sample import Sample, sample
from smallvision.training.predictor import Predictor, load


def run(config: Config, run: RunDir, checkpoint: Any = None) -> Export:
    """Write the network of ``checkpoint`` to the run directory in the format that was asked for.

    Beside it: exports.json (what was checked, of every format there) and model_card.md. Raises UserError where
    the directory cannot be written, or the file does not compute what the network does.
    """
    directory = run.path
    refuse_unwritable(directory)
    console = Console()
    checkpoint, name = Path(config["checkpoint"]), config["format"]
    trained = load(checkpoint, in_float32(config))
    own = own_config(trained, config)
    module = standalone(trained)
    seen = sample(config, own, trained.shape, len(trained.classes))
    summary(console, trained, own, seen, checkpoint, name)
    words = said(trained, own)
    of = identity(module, words, own)
    made = export(name, module, words, of, seen, directory)
    names = {format: one.file for format, one in FORMATS.items()}
    kept = [one for one in record.read(directory, names, of) if one.format != name]
    exports = sorted([*kept, made], key=lambda one: list(FORMATS).index(one.format))
    known = {one.file for one in exports}
    others = [file for file in names.values() if file not in known and (directory / file).exists()]
    page = directory / card.FILE
    try:
        record.write(directory, exports)
        write_text(page, card.card(trained, module, own, figures(checkpoint, trained), exports, others, checkpoint))
    except OSError as error:
        raise UserError(
            f"{page}: cannot be written: {error.strerror}; hydra.run.dir=DIRECTORY chooses another place"
        ) from None
    closing_lines(console, made, directory)
    left = [format for format in FORMATS if format not in {one.format for one in exports}]
    next_steps(console, page, checkpoint, left)
    return made


def refuse_unwritable(directory: Path) -> None:
    if not directory.is_dir() or not os.access(directory, os.W_OK):
        raise UserError(f"{directory}: cannot be written; hydra.run.dir=DIRECTORY chooses another place for the export")


def summary(
    console: Console, trained: Predictor, own: dict[str, Any], seen: Sample, checkpoint: Path, name: str
) -> None:
    """What is exported, before anything long happens."""
    data = trained.plain["data"]
    console.print(f"smallvision: exporting {checkpoint} as {name}", style="bold")
    if data.get("stand_in_for") is not None:
        console.print(f"  STAND-IN: it learnt from images that are not {data['stand_in_for']}", style="bold red")
    views = len(trained.model.views)
    console.fields(
        {
            "data": " ".join(f"{data['name']}, {data['source']}".split())[:300],
            "network": f"{own['model']['name']}, {trained.parameter_count:,} parameters,"
            f" {trained.epoch} epoch{'s' * (trained.epoch != 1)}" + (f", {views} views" if views > 1 else ""),
            "takes": f"images, uint8, N x {' x '.join(map(str, trained.shape))}",
            "gives": f"probabilities, float32, N x {len(trained.classes)}",
            "compared": f"on {seen.words}",
        }
    )
    if seen.caution is not None:
        console.print(f"  note       {seen.caution}", style="yellow")


def closing_lines(console: Console, made: Export, directory: Path) -> None:
    """The file, and what was found."""
    console.print()
    console.print(
        f"same  largest difference {made.difference:.2g} ({LIMIT:g} allowed), {made.agreed:,} of"
        f" {made.images:,} predicted classes agree",
        style="bold green",
    )
    console.fields(
        {
            "file": f"{directory / made.file}, {made.bytes:,} bytes",
            "checked": f"in {made.runtime}; {made.batches} images at once",
            "time": duration(made.seconds),
        }
    )


def next_steps(console: Console, page: Path, checkpoint: Path, left: list[str]) -> None:
    """``left``: the formats that are not there yet."""
    console.print()
    console.fields({"how to use": str(page)})
    for name in left:
        console.fields({"also": command("task=export", f"checkpoint={checkpoint}", f"format={name}")})
