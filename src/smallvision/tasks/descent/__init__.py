"""task=descent: optimizers side by side on a function of one or two variables, as a table, a CSV and a plot."""

import csv
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from smallvision.config.schema import Config, Descent
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.results import DataResults, ModelResults, Results, Seconds
from smallvision.core.run_dir import RunDir, atomic_write
from smallvision.tasks.descent.compare import configs_to_compare, listed
from smallvision.tasks.descent.functions import FUNCTIONS, Function, Point
from smallvision.tasks.descent.plot import DescentPlot
from smallvision.tasks.descent.trajectory import Trajectory, descend
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.device import hardware

COLUMNS = ("function", "optimizer", "step", "x", "y", "value", "lr")
Rows = list[list[Trajectory]]  # a row for each function, a trajectory for each optimizer


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> Results:
    """Compute the trajectories, print them, and write descent.csv, descent.png and results.json."""
    assert run_dir is not None
    options = config.descent
    assert options is not None
    if config.device.name not in ("auto", "cpu"):
        raise UserError(f"device={config.device.name}: task=descent runs on the CPU; leave device= out")
    compared = configs_to_compare(config)
    functions = list(FUNCTIONS.values()) if options.function == "all" else [FUNCTIONS[options.function]]
    rows: Rows = []
    for function in functions:
        start, steps = starting_point(options, function), options.steps or function.steps
        rows.append([descend(one, function, start, steps, label) for label, one in compared.items()])
    run_dir.describe(config.to_dict(), hardware("cpu"))
    console = Console()
    console.print(f"smallvision: descent on {', '.join(function.name for function in functions)}", style="bold")
    console.fields(
        {
            "optimizer": "; ".join(compared),
            "schedule": config.scheduler.name,
            "device": f"cpu ({hardware('cpu')}), float64",
            "run": str(run_dir.path),
        }
    )
    if any(one.optimizer.target == "torch.optim.Muon" for one in compared.values()):
        note = "muon treats the point as a matrix of one row: all its steps have one length, whatever the slope"
        console.print(f"  note       {note}", style="yellow")
    for row in rows:
        print_row(console, row)
    files = {"plot": run_dir.path / "descent.png", "steps": run_dir.path / "descent.csv"}
    write_steps(files["steps"], rows)
    plot = DescentPlot(rows, config.scheduler.name)
    plot.save(files["plot"])
    if options.animation:
        files["animation"] = run_dir.path / "descent.gif"
        plot.animate(files["animation"])
    results = make_results(config, rows, run_dir)
    results.write(run_dir)
    console.print()
    console.fields({name: str(file) for name, file in files.items()})
    return results


def starting_point(options: Descent, function: Function) -> Point:
    """``descent.start`` or the function's own. Raises UserError where it is not a point of this function."""
    if options.start is None:
        return function.start
    point = tuple(float(coordinate) for coordinate in listed(options.start))
    if options.function == "all":
        raise UserError("descent.start: goes with one function; choose it: descent.function=parabola")
    if len(point) != len(function.start):
        form = "one number" if len(function.start) == 1 else "two numbers, [x,y]"
        raise UserError(f"descent.start={options.start}: a point of {function.name} is {form}")
    return point


def print_row(console: Console, row: Sequence[Trajectory]) -> None:
    """One function's trajectories as a table, and hints for those that diverged or hardly moved."""
    function, start = row[0].function, point_text(row[0].points[0])
    width = max(len("optimizer"), *(len(one.label) for one in row))
    ends = max(20, *(len(point_text(one.points[-1])) + 2 for one in row))
    console.print()
    console.print(f"  {function.name}: {function.formula}, from {start}, {row[0].steps} steps")
    heading = f"  {'optimizer':<{width}}{'end':>{ends}}{'value':>13}{'to minimum':>12}   1 % of the distance remains"
    console.print(heading, style="bold")
    for one in row:
        reached = f"after step {one.converged_after}" if one.converged_after is not None else "-"
        if one.diverged_after is not None:
            reached = f"diverged after step {one.diverged_after}"
        end = f"{point_text(one.points[-1]):>{ends}}{one.values[-1]:>13.5g}{one.distance:>12.3g}"
        console.print(f"  {one.label:<{width}}{end}   {reached}")
    if any(one.diverged_after is not None for one in row):
        limit = f"gradient descent converges below lr {function.largest_stable_lr():.3g}"
        console.print(f"  {limit}, which is 2 / the largest curvature", style="yellow")
    slow = [one.label for one in row if one.diverged_after is None and 0.9 < one.remaining[-1] < math.inf]
    if slow:
        console.print(f"  hardly moved: {'; '.join(slow)}; try a larger lr or descent.steps=", style="yellow")


def point_text(point: Point) -> str:
    numbers = ", ".join(f"{one:.4g}" for one in point)
    return numbers if len(point) == 1 else f"({numbers})"


def write_steps(file: Path, rows: Rows) -> None:
    """Every step of every trajectory; the start is step 0 and has no learning rate, a curve has no y."""
    with atomic_write(file) as scratch, scratch.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for one in (trajectory for row in rows for trajectory in row):
            steps = zip(one.points, one.values, [None, *one.lrs], strict=True)
            for step, (point, value, lr) in enumerate(steps):
                x, y = point if len(point) == 2 else (*point, None)
                writer.writerow([one.function.name, one.label, step, x, y, value, lr])


def make_results(config: Config, rows: Rows, run_dir: RunDir) -> Results:
    """results.json with the trajectories under "descent"; its data are formulas and its model is a point."""
    assert config.descent is not None
    formulas = "; ".join(row[0].function.formula for row in rows)
    fingerprint = hashlib.sha256(formulas.encode()).hexdigest()[:16]
    return Results(
        status="completed",
        task=config.task,
        seed=config.seed,
        device="cpu",
        precision="64",
        data=DataResults(config.descent.function, formulas, fingerprint),
        model=ModelResults("point", max(len(row[0].function.start) for row in rows)),
        optimizer=config.optimizer.name,
        steps=sum(len(row[0].lrs) for row in rows),
        seconds=Seconds(total=run_dir.seconds),
        extra={"descent": [trajectory_results(one) for row in rows for one in row]},
    )


def trajectory_results(one: Trajectory) -> dict[str, Any]:
    return {
        "function": one.function.name,
        "optimizer": one.label,
        "steps": len(one.lrs),
        "start": list(one.points[0]),
        "end": list(one.points[-1]),
        "value": one.values[-1],
        "distance_to_minimum": one.distance if math.isfinite(one.distance) else None,
        "converged_after": one.converged_after,
        "diverged_after": one.diverged_after,
    }
