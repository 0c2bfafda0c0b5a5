"""What is in pictures of any kind, by a checkpoint alone."""

import csv
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir, atomic_write
from smallvision.data.image_files import MODES, FoundImages, ImageFile, find_images, none_readable
from smallvision.data.preprocess import InputSpec, LoadedImage, dataset_kind, load_in_chunks
from smallvision.reports import contact_sheet
from smallvision.reports.predictions import Prediction, Telling, accuracy_line, columns, one_line, row
from smallvision.tasks.common import METRICS
from smallvision.training.factory import by
from smallvision.training.predictor import Predictor, load
from smallvision.training.saliency import saliency

CHUNK, CHUNK_PIXELS = 256, 4_000_000  # what is brought to the network at a time


def run(config: Config, run: RunDir) -> dict[str, Any]:
    """Tell each picture's class; predictions.csv and predictions.png go to the run directory."""
    console = Console()
    found = find_images(config["images"], sys.stdin.buffer if sys.stdin else io.BytesIO())
    trained = load(Path(config["checkpoint"]), config)
    spec = input_spec(trained, config)
    summary(console, config, trained, found, run)
    telling = Telling(console.print, [file.name for file in found.files], trained.classes, config["predict"]["top"])
    started = time.perf_counter()
    try:
        tiles = predict(config, trained, found.files, spec, telling, run.directory)
        seconds = time.perf_counter() - started
        run.describe(config, trained.device.hardware)
        stand_in = stand_in_words(trained)
        if tiles:
            learnt = trained.plain["data"]["name"]
            title = f"{config['model']['name']}, trained on {learnt}"
            with atomic_write(run.directory / "predictions.png") as scratch:
                contact_sheet.draw(tiles, scratch, one_line(title), stand_in)
    except BrokenPipeError:
        raise
    except OSError as error:  # pictures' own do not come this far
        raise UserError(f"{run.directory}: cannot be written: {error.strerror}; choose another") from None
    figures = results(config, trained, telling, run, seconds)
    run.results(figures)
    telling.end()
    if telling.tally.known:
        console.print()
        console.print(accuracy_line(telling.tally), style="bold green")
    if stand_in:
        console.print(stand_in, style="bold red")
    console.print()
    made = ["predictions.csv", *(["predictions.png"] if tiles else [])]
    console.fields(dict(zip(("all of it", "a sheet"), (str(run.directory / name) for name in made), strict=False)))
    return figures


def input_spec(trained: Predictor, config: Config) -> InputSpec:
    """What pictures are to be brought to; UserError where none can be."""
    channels, height, width = trained.shape
    if channels not in MODES:
        raise UserError(
            f"{config['checkpoint']}: takes images of {channels} channels, and pictures come with 1 (grey)"
            " or 3 (colour)"
        )
    choice, plain = config["predict"], trained.plain
    dataset = dataset_kind(plain["config"]["data"]["name"], plain["data"]["name"], plain["mean"])
    resize = {"squeeze": "stretch", "crop": "center_crop"}.get(choice["frame"], choice["frame"])
    return InputSpec(channels, height, width, dataset, choice["polarity"], resize)


def predict(
    config: Config,
    trained: Predictor,
    files: Sequence[ImageFile],
    spec: InputSpec,
    telling: Telling,
    directory: Path,
) -> list[contact_sheet.Tile]:
    """Tell and write what each picture shows, in bounded memory; gives what the sheet shows.

    Raises UserError where not one of them can be read.
    """
    tiles: list[contact_sheet.Tile] = []
    most = min(config["data"]["eval_batch_size"], CHUNK, 1 + CHUNK_PIXELS // (spec.height * spec.width))
    with atomic_write(directory / "predictions.csv") as scratch:
        with scratch.open("w", encoding="utf-8", newline="") as text:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(columns(telling.top))
            for looked in load_in_chunks(files, spec, most, config["predict"]["sheet"]):
                said = ask(trained, looked, telling)
                for one in said:
                    telling.tell(one)
                    table.writerow(row(one, telling.top))
                room = config["predict"]["sheet"] - len(tiles)
                tiles += on_sheet(trained, config, list(zip(looked, said, strict=True)), len(tiles), room)
        if not telling.tally.read:
            raise UserError(one_line(none_readable(config["images"], *telling.first_error, len(files))))
    return tiles


def ask(trained: Predictor, looked: Sequence[LoadedImage], telling: Telling) -> list[Prediction]:
    """The network's answer to each of them that could be read."""
    framed = [one.input for one in looked if one.input is not None]
    if framed:
        pixels = torch.from_numpy(np.stack([one.pixels for one in framed]))
        shares, places = trained.probabilities(pixels).topk(telling.top)
        answers = iter(zip(places.tolist(), shares.tolist(), strict=True))
    said = []
    for one in looked:
        if one.input is None:
            said.append(Prediction(one.file.name, error=one.error))
            continue
        top = [(trained.classes[place], share) for place, share in zip(*next(answers), strict=True)]
        content = one.file.content
        actual = telling.truths.of(content) if isinstance(content, Path) else None
        said.append(Prediction(one.file.name, top, actual, one.input.polarity, one.input.resize))
    return said


def on_sheet(
    trained: Predictor, config: Config, pairs: Sequence[tuple[LoadedImage, Prediction]], first: int, room: int
) -> list[contact_sheet.Tile]:
    """At most ``room`` of them as tiles; ``first``: how many the sheet has already."""
    tiles: list[contact_sheet.Tile] = []
    for looked, said in pairs:
        if looked.input is None or looked.thumbnail is None or len(tiles) >= room:
            continue
        seen, heat = looked.input.pixels, None
        if config["predict"]["saliency"]:
            label = trained.classes.index(said.top[0][0])
            heat = saliency(trained, torch.from_numpy(seen), label, config["seed"], first + len(tiles))
        tiles.append(contact_sheet.Tile(said, looked.thumbnail, seen, heat))
    return tiles


def summary(console: Console, config: Config, trained: Predictor, found: FoundImages, run: RunDir) -> None:
    """What will answer, before it does."""
    data = trained.plain["data"]
    console.print(f"smallvision: predicting with {one_line(config['checkpoint'])}", style="bold")
    stand_in = stand_in_words(trained)
    if stand_in:
        console.print(f"  {stand_in}", style="bold red")
    console.fields(
        {
            "network": f"{config['model']['name']}, {trained.parameters:,} parameters, epoch {trained.epoch}",
            "learnt": one_line(f"{data['name']}, {data['source']}"),
            "": f"{by(trained.shape)}, {len(trained.classes)} classes",
            "device": str(trained.device),
            "pictures": f"{len(found.files):,}",
            "run": str(run.directory),
        }
    )
    if found.skipped:
        console.print(f"  note       skipped {found.skipped:,} files whose names are not those of images")
    console.print()


def stand_in_words(trained: Predictor) -> str | None:
    """What must be said of a network that never saw the data set that was named."""
    named = trained.plain["data"].get("stand_in_for")
    if named is None:
        return None
    learnt = trained.plain["data"]["name"]
    return one_line(f"STAND-IN: this network learnt {learnt}, not {named}: its answers say nothing about {named}")


def results(config: Config, trained: Predictor, telling: Telling, run: RunDir, seconds: float) -> dict[str, Any]:
    """What goes to results.json; no accuracy of a run, as these pictures are no test set."""
    tally = telling.tally
    return {
        "status": "completed",
        "task": config["task"],
        "seed": config["seed"],
        "device": trained.device.kind,
        "precision": trained.device.precision,
        "data": {"stand_in_for": None, **trained.plain["data"]},
        "model": {"name": config["model"]["name"], "parameters": trained.parameters},
        "optimizer": config["optimizer"]["name"],
        "epochs": trained.epoch,
        "steps": 0,
        "metrics": dict.fromkeys(METRICS),
        "best_checkpoint": config["checkpoint"],
        "seconds": {"total": run.seconds, "fit": None, "test": None},
        "images_per_second": tally.read / seconds,
        "pictures": tally.pictures,
        "unreadable": tally.unreadable,
        "inverted": tally.inverted,
        "known": tally.known,
        "right": tally.right,
    }
