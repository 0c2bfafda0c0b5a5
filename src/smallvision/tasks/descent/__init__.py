"""What an optimizer does: its way down a function that can be drawn."""

import csv
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir, atomic_write
from smallvision.tasks.common import METRICS
from smallvision.tasks.descent.field import listed, walkers
from smallvision.tasks.descent.functions import FUNCTIONS, Function, Place
from smallvision.tasks.descent.picture import Picture
from smallvision.tasks.descent.walk import Walk, walk
from smallvision.training.device import hardware

COLUMNS = ("function", "optimizer", "step", "x", "y", "value", "lr")
Row = tuple[Function, int, list[Walk]]


def run(config: Config, run: RunDir) -> dict[str, Any]:
    """Walk, tell, write descent.csv and results.json, and draw."""
    choice = config["descent"]
    if config["device"]["name"] not in ("auto", "cpu"):
        raise UserError(f"device={config['device']['name']}: a point walks on the CPU; leave device= out")
    field = walkers(config)
    rows: list[Row] = []
    for function in functions(choice["function"]):
        start, steps = start_of(choice, function), choice["steps"] or function.steps
        ways = [walk(config, one.section, function, start, steps, one.label) for one in field]
        rows.append((function, steps, ways))
    run.describe(config, hardware("cpu"))
    console = Console()
    names = ", ".join(function.name for function, _, _ in rows)
    console.print(f"smallvision: walking down {names}", style="bold")
    console.fields(
        {
            "optimizer": "; ".join(one.label for one in field),
            "schedule": config["scheduler"]["name"],
            "device": f"cpu ({hardware('cpu')}), float64",
            "run": str(run.directory),
        }
    )
    if any(one.section["_target_"] == "torch.optim.Muon" for one in field):
        note = "to muon a point is a matrix of one row: its steps are of one length, whatever the slope"
        console.print(f"  note       {note}", style="yellow")
    for function, steps, ways in rows:
        tell(console, function, steps, ways)
    write_steps(run.directory / "descent.csv", rows)
    picture = Picture(rows, config["scheduler"]["name"])
    drawn = {"picture": run.directory / "descent.png", "steps": run.directory / "descent.csv"}
    picture.save(drawn["picture"])
    if choice["animation"]:
        drawn["animation"] = run.directory / "descent.gif"
        picture.animate(drawn["animation"])
    figures = results(config, rows, run)
    run.results(figures)
    console.print()
    console.fields({name: str(file) for name, file in drawn.items()})
    return figures


def functions(name: str) -> list[Function]:
    return list(FUNCTIONS.values()) if name == "all" else [FUNCTIONS[name]]


def start_of(choice: dict[str, Any], function: Function) -> Place:
    """Where the walks begin. Raises UserError where the place that was typed is not on this function."""
    if choice["start"] is None:
        return function.start
    place = tuple(float(one) for one in listed(choice["start"]))
    if choice["function"] == "all":
        raise UserError("descent.start: goes with one function; choose it: descent.function=parabola")
    if len(place) != len(function.start):
        kind = "one number" if len(function.start) == 1 else "two numbers, [x,y]"
        raise UserError(f"descent.start={choice['start']}: a place on the {function.name} is {kind}")
    return place


def tell(console: Console, function: Function, steps: int, ways: Sequence[Walk]) -> None:
    """One function's walks as a table, and what to change."""
    width = max(len("optimizer"), *(len(one.label) for one in ways))
    ends = max(20, *(len(spot(one.places[-1])) + 2 for one in ways))
    console.print()
    console.print(f"  {function.name}: {function.formula}, from {spot(ways[0].places[0])}, {steps} steps")
    console.print(
        f"  {'optimizer':<{width}}{'end':>{ends}}{'value':>13}{'to minimum':>12}   1 % of the way left",
        style="bold",
    )
    for one in ways:
        reached = f"after step {one.settled}" if one.settled is not None else "-"
        if one.diverged is not None:
            reached = f"diverged after step {one.diverged}"
        line = f"  {one.label:<{width}}{spot(one.places[-1]):>{ends}}{one.values[-1]:>13.5g}"
        console.print(f"{line}{one.distance:>12.3g}   {reached}")
    if any(one.diverged is not None for one in ways):
        console.print(
            f"  plain steps (gd) settle here below lr {function.stable_rate():.3g}, which is 2 / the largest curvature",
            style="yellow",
        )
    slow = [one.label for one in ways if one.diverged is None and 0.9 < one.left[-1] < math.inf]
    if slow:
        console.print(
            f"  hardly begun: {'; '.join(slow)}; a larger lr or descent.steps= takes it further",
            style="yellow",
        )


def spot(place: Place) -> str:
    numbers = ", ".join(f"{one:.4g}" for one in place)
    return numbers if len(place) == 1 else f"({numbers})"


def write_steps(file: Path, rows: Sequence[Row]) -> None:
    """Every step of every walk; the start is step 0 and has no rate, a curve has no y."""
    with atomic_write(file) as scratch, scratch.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for function, _, ways in rows:
            for one in ways:
                steps = zip(one.places, one.values, [None, *one.rates], strict=True)
                for step, (place, value, rate) in enumerate(steps):
                    y = place[1] if len(place) == 2 else None
                    writer.writerow([function.name, one.label, step, place[0], y, value, rate])


def results(config: Config, rows: Sequence[Row], run: RunDir) -> dict[str, Any]:
    """As of a run, with the walks under "descent"; the data are a formula and the network is a point."""
    named = config["descent"]["function"]
    formulas = "; ".join(function.formula for function, _, _ in rows)
    return {
        "status": "completed",
        "task": config["task"],
        "seed": config["seed"],
        "device": "cpu",
        "precision": "64",
        "data": {
            "name": named,
            "source": formulas,
            "fingerprint": hashlib.sha256(formulas.encode()).hexdigest()[:16],
            "stand_in_for": None,
            "remark": None,
            **dict.fromkeys(("train", "val", "test"), 0),
        },
        "model": {"name": "point", "parameters": max(len(function.start) for function, _, _ in rows)},
        "optimizer": config["optimizer"]["name"],
        "epochs": 0,
        "steps": sum(len(ways[0].rates) for _, _, ways in rows),
        "metrics": dict.fromkeys(METRICS),
        "best_checkpoint": None,
        "seconds": {"total": run.seconds, "fit": None, "test": None},
        "images_per_second": None,
        "descent": [of_walk(one) for _, _, ways in rows for one in ways],
    }


def of_walk(one: Walk) -> dict[str, Any]:
    return {
        "function": one.function.name,
        "optimizer": one.label,
        "steps": len(one.rates),
        "start": list(one.places[0]),
        "end": list(one.places[-1]),
        "value": one.values[-1],
        "to_minimum": one.distance if math.isfinite(one.distance) else None,
        "settled_after": one.settled,
        "diverged_after": one.diverged,
    }
