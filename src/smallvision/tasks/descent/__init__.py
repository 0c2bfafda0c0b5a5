"""task=descent: optimizers side by side on a function of one or two variables, as a table, a CSV and a plot."""

import csv
import hashlib
import math
from dataclasses import replace
from pathlib import Path

from smallvision.config.compose import CONFIG_DIR, compose_section
from smallvision.config.schema import Config, Optimizer
from smallvision.core.console import Console
from smallvision.core.errors import UserError, did_you_mean
from smallvision.core.results import DataResults, ModelResults, Results, Seconds
from smallvision.core.run_dir import RunDir, atomic_write
from smallvision.tasks.descent.plot import COLORS, DescentPlot, Row
from smallvision.tasks.descent.trajectory import FUNCTIONS, Function, Point, Trajectory, descend
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.device import hardware


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> Results:
    """Compute the trajectories, print them, and write descent.csv, descent.png and results.json."""
    assert run_dir is not None
    assert config.descent is not None
    if config.device.name not in ("auto", "cpu"):
        raise UserError(f"device={config.device.name}: task=descent runs on the CPU; leave device= out")
    compared = configs_to_compare(config)
    name, steps = config.descent.function, config.descent.steps
    rows: list[Row] = []
    for function in FUNCTIONS.values() if name == "all" else [FUNCTIONS[name]]:
        start = starting_point(config.descent.start, name, function)
        rows.append([descend(one, function, start, steps or function.steps, label) for label, one in compared.items()])
    run_dir.describe(config.to_dict(), hardware("cpu"))
    console = Console()
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
    plot.figure.savefig(files["plot"])
    if config.descent.animation:
        files["animation"] = run_dir.path / "descent.gif"
        plot.animate(files["animation"])
    formulas = "; ".join(row[0].function.formula for row in rows)
    results = Results(  # the data are formulas, the model is a point
        status="completed",
        task=config.task,
        seed=config.seed,
        device="cpu",
        precision="64",
        data=DataResults(name, formulas, hashlib.sha256(formulas.encode()).hexdigest()[:16]),
        model=ModelResults("point", max(len(row[0].function.start) for row in rows)),
        optimizer=config.optimizer.name,
        steps=sum(len(row[0].lrs) for row in rows),
        seconds=Seconds(total=run_dir.seconds),
        extra={"descent": [in_results(trajectory) for row in rows for trajectory in row]},
    )
    results.write(run_dir)
    console.print()
    console.fields({name: str(file) for name, file in files.items()})
    return results


# What is compared, and from where --------------------------------------------------------------------------


def configs_to_compare(config: Config) -> dict[str, Config]:
    """By label, ``config`` with each optimizer in turn, the chosen one first: at each of ``descent.rates``, and at its
    own rate unless that is only the default beside them.

    Raises UserError where one of ``descent.compare_with`` is unknown or invalid, and where there are too many.
    """
    options = config.descent
    assert options is not None  # single values may be typed without brackets
    rates = options.rates if isinstance(options.rates, list) else [options.rates]
    others = options.compare_with if isinstance(options.compare_with, list) else [options.compare_with]
    own = [] if rates and config.optimizer.lr == defaults(config).get("lr") else [config]
    compared = own + [config.updated({"optimizer": {"lr": lr}}) for lr in rates]
    compared += [with_optimizer(config, typed) for typed in others]
    found = {label(one): one for one in compared}
    if len(found) > len(COLORS):
        raise UserError(f"descent.compare_with, descent.rates: {len(found)} optimizers; use at most {len(COLORS)}")
    return found


def with_optimizer(config: Config, typed: str) -> Config:
    """``config`` with the optimizer of ``adam``, at its default learning rate, or of ``adam@0.5``, at this one."""
    name, at, lr = typed.partition("@")
    choices = [file.stem for file in (CONFIG_DIR / "optimizer").glob("[!_]*.yaml")]
    if name not in choices:
        raise UserError(f"descent.compare_with={typed}: no such optimizer.{did_you_mean(name, choices)}")
    optimizer = Optimizer.from_dict(compose_section("optimizer", name), "optimizer")
    if at:
        try:
            optimizer = replace(optimizer, lr=float(lr))
        except ValueError:
            optimizer = replace(optimizer, lr=math.nan)
        if not 0 < optimizer.lr < math.inf:
            raise UserError(f"descent.compare_with={typed}: a learning rate above 0 goes after the @, as in {name}@0.1")
    return replace(config, optimizer=optimizer)


def label(config: Config) -> str:
    """Name and learning rate, momentum if any, and whatever differs from the defaults of that ``optimizer=``."""
    optimizer, own_lr = config.optimizer, config.param_groups.weight.lr
    parts = [optimizer.name, f"lr {optimizer.lr if own_lr is None else own_lr:g}"]
    for key, default in defaults(config).items():
        value = optimizer.extra.get(key, default)
        if value != default or (key == "momentum" and value):
            parts.append(f"{key} {'null' if value is None else str(value).lower()}")
    return ", ".join(parts)


def defaults(config: Config) -> dict[str, object]:
    """Those of its ``optimizer=``, empty where that is no choice of the project."""
    known = (CONFIG_DIR / "optimizer" / f"{config.optimizer.name}.yaml").is_file()
    return compose_section("optimizer", config.optimizer.name) if known else {}


def starting_point(typed: float | list[float] | None, name: str, function: Function) -> Point:
    """``descent.start`` or the function's own. Raises UserError where it is not a point of ``descent.function``."""
    if typed is None:
        return function.start
    if name == "all":
        raise UserError("descent.start: goes with one function; choose it: descent.function=parabola")
    point = tuple(map(float, typed if isinstance(typed, list) else [typed]))
    if len(point) != len(function.start):
        form = "one number" if len(function.start) == 1 else "two numbers, [x,y]"
        raise UserError(f"descent.start={typed}: a point of {name} is {form}")
    return point


# What is reported -------------------------------------------------------------------------------------------


def print_row(console: Console, row: Row) -> None:
    """One function's trajectories as a table, and hints for those that diverged or hardly moved."""
    function, start, steps = row[0].function, point_text(row[0].points[0]), row[0].steps
    width = max(len("optimizer"), *(len(one.label) for one in row))
    ends = max(20, *(len(point_text(one.points[-1])) + 2 for one in row))
    console.print()
    console.print(f"  {function.name}: {function.formula}, from {start}, {steps} steps")
    console.print(f"  {'optimizer':<{width}}{'end':>{ends}}{'value':>13}{'to minimum':>12}", style="bold")
    for one in row:
        end = f"{point_text(one.points[-1]):>{ends}}{one.values[-1]:>13.5g}{one.distances[-1]:>12.3g}"
        console.print(f"  {one.label:<{width}}{end}   {one.ending}")
    if any(one.diverged_after is not None for one in row):
        limit = f"gradient descent converges below lr {function.largest_stable_lr():.3g}"
        console.print(f"  {limit}, which is 2 / the largest curvature", style="yellow")
    slow = [one.label for one in row if one.diverged_after is None and 0.9 < one.remaining[-1] < math.inf]
    if slow:
        console.print(f"  hardly moved: {'; '.join(slow)}; try a larger lr or descent.steps=", style="yellow")


def point_text(point: Point) -> str:
    numbers = ", ".join(f"{one:.4g}" for one in point)
    return numbers if len(point) == 1 else f"({numbers})"


def write_steps(file: Path, rows: list[Row]) -> None:
    """Every step of every trajectory; the start is step 0 and has no learning rate, a curve has no y."""
    with atomic_write(file) as scratch, scratch.open("w", newline="", encoding="utf-8") as text:
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["function", "optimizer", "step", "x", "y", "value", "lr"])
        for one in (trajectory for row in rows for trajectory in row):
            for step, (point, value, lr) in enumerate(zip(one.points, one.values, [None, *one.lrs], strict=True)):
                writer.writerow([one.function.name, one.label, step, *(*point, None)[:2], value, lr])


def in_results(trajectory: Trajectory) -> dict[str, object]:
    distance = trajectory.distances[-1]
    return {
        "function": trajectory.function.name,
        "optimizer": trajectory.label,
        "steps": len(trajectory.lrs),
        "start": list(trajectory.points[0]),
        "end": list(trajectory.points[-1]),
        "value": trajectory.values[-1],
        "distance_to_minimum": distance if math.isfinite(distance) else None,
        "converged_after": trajectory.converged_after,
        "diverged_after": trajectory.diverged_after,
    }
