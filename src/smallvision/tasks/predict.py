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

from smallvision.data.framing import Wanted, kind
from smallvision.data.gathering import Gathered, Source, gather, none_read
from smallvision.data.looking import Looked, in_chunks
from smallvision.data.pictures import MODES
from smallvision.errors import Refusal
from smallvision.files import written_whole
from smallvision.overrides import Config
from smallvision.reports import contact_sheet
from smallvision.reports.predictions import Prediction, Telling, accuracy_line, columns, one_line, row
from smallvision.runs import Run
from smallvision.screen import Screen
from smallvision.tasks.common import METRICS
from smallvision.training.inference import Trained, load
from smallvision.training.saliency import saliency
from smallvision.training.setup import by

CHUNK, CHUNK_PIXELS = 256, 4_000_000  # what is brought to the network at a time


def run(config: Config, run: Run) -> dict[str, Any]:
    """Tell each picture's class; predictions.csv and predictions.png go to the run directory."""
    screen = Screen()
    gathered = gather(config["images"], sys.stdin.buffer if sys.stdin else io.BytesIO())
    trained = load(Path(config["checkpoint"]), config)
    wanted = wanted_by(trained, config)
    summary(screen, config, trained, gathered, run)
    telling = Telling(
        screen.say, [one.name for one in gathered.sources], trained.classes, config["predict"]["top"]
    )
    started = time.perf_counter()
    try:
        tiles = predict(config, trained, gathered.sources, wanted, telling, run.directory)
        seconds = time.perf_counter() - started
        run.describe(config, trained.device.hardware)
        stand_in = stand_in_words(trained)
        if tiles:
            learnt = trained.plain["data"]["name"]
            title = f"{config['model']['name']}, trained on {learnt}"
            with written_whole(run.directory / "predictions.png") as scratch:
                contact_sheet.draw(tiles, scratch, one_line(title), stand_in)
    except BrokenPipeError:
        raise
    except OSError as error:  # pictures' own do not come this far
        raise Refusal(f"{run.directory}: cannot be written: {error.strerror}; choose another") from None
    figures = results(config, trained, telling, run, seconds)
    run.results(figures)
    telling.end()
    if telling.tally.known:
        screen.say()
        screen.say(accuracy_line(telling.tally), style="bold green")
    if stand_in:
        screen.say(stand_in, style="bold red")
    screen.say()
    made = ["predictions.csv", *(["predictions.png"] if tiles else [])]
    screen.pairs(
        dict(zip(("all of it", "a sheet"), (str(run.directory / name) for name in made), strict=False))
    )
    return figures


def wanted_by(trained: Trained, config: Config) -> Wanted:
    """What pictures are to be brought to; Refusal where none can be."""
    channels, height, width = trained.shape
    if channels not in MODES:
        raise Refusal(
            f"{config['checkpoint']}: takes images of {channels} channels, and pictures come with 1 (grey)"
            " or 3 (colour)"
        )
    choice = config["predict"]
    return Wanted(channels, height, width, kind(trained.plain), choice["polarity"], choice["frame"])


def predict(
    config: Config,
    trained: Trained,
    sources: Sequence[Source],
    wanted: Wanted,
    telling: Telling,
    directory: Path,
) -> list[contact_sheet.Tile]:
    """Tell and write what each picture shows, in bounded memory; gives what the sheet shows.

    Raises Refusal where not one of them can be read.
    """
    tiles: list[contact_sheet.Tile] = []
    most = min(config["data"]["eval_batch_size"], CHUNK, 1 + CHUNK_PIXELS // (wanted.height * wanted.width))
    with written_whole(directory / "predictions.csv") as scratch:
        with scratch.open("w", encoding="utf-8", newline="") as text:
            table = csv.writer(text, lineterminator="\n")
            table.writerow(columns(telling.top))
            for looked in in_chunks(sources, wanted, most, config["predict"]["sheet"]):
                said = ask(trained, looked, telling)
                for one in said:
                    telling.tell(one)
                    table.writerow(row(one, telling.top))
                room = config["predict"]["sheet"] - len(tiles)
                tiles += on_sheet(trained, config, list(zip(looked, said, strict=True)), len(tiles), room)
        if not telling.tally.read:
            raise Refusal(one_line(none_read(config["images"], *telling.first_error, len(sources))))
    return tiles


def ask(trained: Trained, looked: Sequence[Looked], telling: Telling) -> list[Prediction]:
    """The network's answer to each of them that could be read."""
    framed = [one.framed for one in looked if one.framed is not None]
    if framed:
        pixels = torch.from_numpy(np.stack([one.pixels for one in framed]))
        shares, places = trained.probabilities(pixels).topk(telling.top)
        answers = iter(zip(places.tolist(), shares.tolist(), strict=True))
    said = []
    for one in looked:
        if one.framed is None:
            said.append(Prediction(one.source.name, error=one.error))
            continue
        top = [(trained.classes[place], share) for place, share in zip(*next(answers), strict=True)]
        content = one.source.content
        actual = telling.truths.of(content) if isinstance(content, Path) else None
        said.append(Prediction(one.source.name, top, actual, one.framed.polarity, one.framed.frame))
    return said


def on_sheet(
    trained: Trained, config: Config, pairs: Sequence[tuple[Looked, Prediction]], first: int, room: int
) -> list[contact_sheet.Tile]:
    """At most ``room`` of them as tiles; ``first``: how many the sheet has already."""
    tiles: list[contact_sheet.Tile] = []
    for looked, said in pairs:
        if looked.framed is None or looked.small is None or len(tiles) >= room:
            continue
        seen, heat = looked.framed.pixels, None
        if config["predict"]["saliency"]:
            label = trained.classes.index(said.top[0][0])
            heat = saliency(trained, torch.from_numpy(seen), label, config["seed"], first + len(tiles))
        tiles.append(contact_sheet.Tile(said, looked.small, seen, heat))
    return tiles


def summary(screen: Screen, config: Config, trained: Trained, gathered: Gathered, run: Run) -> None:
    """What will answer, before it does."""
    data = trained.plain["data"]
    screen.say(f"smallvision: predicting with {one_line(config['checkpoint'])}", style="bold")
    stand_in = stand_in_words(trained)
    if stand_in:
        screen.say(f"  {stand_in}", style="bold red")
    screen.pairs(
        {
            "network": f"{config['model']['name']}, {trained.parameters:,} parameters, epoch {trained.epoch}",
            "learnt": one_line(f"{data['name']}, {data['source']}"),
            "": f"{by(trained.shape)}, {len(trained.classes)} classes",
            "device": str(trained.device),
            "pictures": f"{len(gathered.sources):,}",
            "run": str(run.directory),
        }
    )
    if gathered.passed_over:
        screen.say(
            f"  note       passed over {gathered.passed_over:,} files that are no pictures by their names"
        )
    screen.say()


def stand_in_words(trained: Trained) -> str | None:
    """What must be said of a network that never saw the data set that was named."""
    named = trained.plain["data"].get("stand_in_for")
    if named is None:
        return None
    learnt = trained.plain["data"]["name"]
    return one_line(
        f"STAND-IN: this network learnt {learnt}, not {named}: its answers say nothing about {named}"
    )


def results(config: Config, trained: Trained, telling: Telling, run: Run, seconds: float) -> dict[str, Any]:
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
