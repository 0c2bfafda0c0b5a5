"""One run as a page, ``report.html``."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from smallvision.core.run_dir import command, write_text
from smallvision.reports import plots
from smallvision.reports.evaluation import Array, ClassStats, Evaluation
from smallvision.reports.formatting import metric
from smallvision.reports.pages import attempt, data_uri, render
from smallvision.reports.plots import COLORS, new_plot
from smallvision.reports.run_view import RunView, flatten
from smallvision.reports.statistics import wilson

MAX_MATRIX = 20  # classes of a confusion matrix that one can still read
MAX_CONFUSIONS = 8
MAX_CLASSES = 40
FILTER_SIDE = 44  # CSS pixels, about


def write_page(directory: Path, path: Path) -> None:
    """Write the page of that run directory, whole or not at all; UserError where it holds no run."""
    write_text(path, page(RunView.read(directory)))


def page(view: RunView) -> str:
    evaluation = view.evaluation
    return render(
        "run_page.html",
        view=view,
        results=view.results,
        evaluation=evaluation,
        matrix=confusion_matrix(view, evaluation) if evaluation and len(view.class_names) <= MAX_MATRIX else None,
        classes=class_table(view, evaluation.classes[:MAX_CLASSES]) if evaluation else [],
        confusions=[
            (class_name(view, true), class_name(view, predicted), number)
            for true, predicted, number in (evaluation.top_confusions(MAX_CONFUSIONS) if evaluation else [])
        ],
        mistakes=mistakes(view, evaluation) if evaluation else [],
        samples=samples(view),
        filters=filters(view),
        loss=attempt(learning_curve, view, "loss"),
        accuracy=attempt(learning_curve, view, "acc"),
        learning_rate=attempt(learning_rate, view),
        epoch_seconds=attempt(epoch_seconds, view),
        reliability=attempt(reliability, evaluation) if evaluation else None,
        seconds=seconds(view),
        commands=commands(view),
        settings=settings(view),
    )


def class_name(view: RunView, index: int) -> str:
    return view.class_names[index] if index < len(view.class_names) else str(index)


def confusion_matrix(view: RunView, evaluation: Evaluation) -> list[tuple[str, list[tuple[int, float]]]]:
    """A row per true class: its name, and the count and shade (from 0 to 1) of each predicted class."""
    most = max(int(evaluation.errors.max()), 1)
    rows = []
    for index, counts in enumerate(evaluation.confusion.tolist()):
        shades = [math.sqrt(count / most) for count in counts]
        shades[index] = counts[index] / max(sum(counts), 1)
        rows.append((class_name(view, index), list(zip(counts, shades, strict=True))))
    return rows


def class_table(view: RunView, classes: list[ClassStats]) -> list[dict[str, Any]]:
    """A row per class, with its interval as positions from 0 to 100 along one scale."""
    lowest = min((one.accuracy.low for one in classes), default=0.0)
    start = min(math.floor(lowest * 10) / 10, 0.9)
    rows = []
    for one in classes:
        ends = (one.accuracy.low, one.accuracy.value, one.accuracy.high)
        wrong = one.confused_with
        rows.append(
            {
                "name": class_name(view, one.index),
                "accuracy": one.accuracy,
                "bar": [round(100 * (end - start) / (1 - start), 1) for end in ends],
                "confused_with": (class_name(view, wrong[0]), wrong[1]) if wrong else None,
            }
        )
    return rows


def mistakes(view: RunView, evaluation: Evaluation) -> list[dict[str, Any]]:
    return [
        {
            "image": data_uri(image),
            "number": int(number),
            "predicted": class_name(view, int(evaluation.predicted[number])),
            "label": class_name(view, int(evaluation.labels[number])),
            "probability": float(evaluation.confidence[number]),
        }
        for image, number in zip(
            view.arrays.get("mistakes", ()), view.arrays.get("mistake_index", ()), strict=True
        )
    ]  # fmt: skip


def samples(view: RunView) -> list[tuple[str, str]]:
    """Images of the first training batch, and their classes."""
    pairs = zip(view.arrays.get("samples", ()), view.arrays.get("sample_labels", ()), strict=True)
    return [(data_uri(image), class_name(view, int(label))) for image, label in pairs]


def filters(view: RunView) -> dict[str, Any] | None:
    """The first layer's filters as one image."""
    found = view.arrays.get("filters")
    if found is None or not found.size or found.shape[1] not in (1, 3) or not np.isfinite(found).all():
        return None
    height, width = found.shape[2:]
    sheet = filter_sheet(found, columns=16 if max(height, width) <= 12 else 8)
    zoom = max(2, round(FILTER_SIDE / max(height, width)))
    image = data_uri(sheet)
    return {"image": image, "count": len(found), "size": (height, width), "width": zoom * sheet.shape[1]}


def filter_sheet(found: Array, columns: int) -> Array:
    """Filters (floats, N x C x H x W) side by side, each scaled by itself, 0 as middle grey; RGBA, H x W x 4."""
    count, _, height, width = found.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    largest = np.abs(found).max(axis=(1, 2, 3), keepdims=True)
    levels = np.round(127.5 + 127.5 * found / np.where(largest, largest, 1)).transpose(0, 2, 3, 1)
    tiles = np.zeros((rows * columns, height + 1, width + 1, 4), np.uint8)  # a transparent pixel between them
    tiles[:count, :height, :width] = 255
    tiles[:count, :height, :width, :3] = levels
    sheet = tiles.reshape(rows, columns, height + 1, width + 1, 4).swapaxes(1, 2)
    return sheet.reshape(rows * (height + 1), columns * (width + 1), 4)[:-1, :-1]


def seconds(view: RunView) -> dict[str, float]:
    """Where the time went: training steps, validation, the rest of the epochs, the test, and all together."""
    spent = view.results.seconds
    sums = {part: sum(getattr(epoch, part) for epoch in spent.epochs) for part in ("train", "val", "rest")}
    return sums | {"test": spent.test or 0.0, "total": spent.total or 0.0}


def commands(view: RunView) -> dict[str, str]:
    """Command lines that continue from this run."""
    results, run = view.results, str(view.directory)
    found = {}
    if results.task == "fit":
        if results.status in ("interrupted", "failed"):
            found["resume"] = command(f"resume={run}")
        found["repeat"] = command(*view.overrides)
        if results.status == "completed":
            found["extend"] = command(f"resume={run}", f"trainer.max_epochs={2 * results.epochs}")
    best = results.best_checkpoint
    if best:
        inside = results.task == "fit" and not Path(best).is_absolute() and (view.directory / best).is_file()
        checkpoint = f"checkpoint={view.directory / best if inside else best}"
        found["test"] = command("task=test", checkpoint)
        found["predict"] = command("task=predict", checkpoint, "images=FILES")
        found["export"] = command("task=export", checkpoint, "format=onnx")
    return found


def settings(view: RunView) -> list[tuple[str, str, bool]]:
    """Each key of the config, its value, and whether it was typed on the command line."""
    typed = {override.lstrip("+").partition("=")[0].replace("/", ".") for override in view.overrides}
    flat = sorted(flatten(view.config).items(), key=lambda entry: "." in entry[0])
    return [(key, _value(value), bool({key, key.removesuffix(".name")} & typed)) for key, value in flat]


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return metric(value) if isinstance(value, float) and abs(value) > 1e4 else str(value)


def learning_curve(view: RunView, name: str) -> Markup | None:
    """``name`` (loss or acc) by epoch, of training and validation, with the best epoch marked."""
    train, val = view.column(f"train/{name}"), view.column(f"val/{name}")
    if not train and not val:
        return None
    label = "loss" if name == "loss" else "accuracy"
    with new_plot(f"curve-{name}", f"{label} by epoch, of training and validation") as plot:
        if view.results.best_epoch and len(view.rows) > 1:
            plot.axes.axvline(view.results.best_epoch, color=COLORS["best"], linewidth=1.2)
        line(plot.axes, train, "pruned")
        line(plot.axes, val, "trial")
        plot.axes.margins(y=0.06)
        plots.epoch_axis(plot.axes, len(view.rows))
    return plot.svg


def learning_rate(view: RunView) -> Markup | None:
    """The learning rate at each epoch's end."""
    points = view.column("lr")
    if not points:
        return None
    with new_plot("curve-lr", "learning rate by epoch") as plot:
        line(plot.axes, points, "ink")
        plot.axes.set_ylim(0, 1.06 * max(value for _, value in points) or 1)
        plots.epoch_axis(plot.axes, len(view.rows))
    return plot.svg


def line(axes: Axes, points: list[tuple[int, float]], role: str) -> None:
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    marker, size = "o" if len(points) <= 30 else "", 3.5 if len(points) > 1 else 6
    axes.plot(epochs, values, color=COLORS[role], linewidth=1.6, marker=marker, markersize=size)


def epoch_seconds(view: RunView) -> Markup | None:
    """Seconds of each epoch as stacked bars: training steps, validation, the rest."""
    epochs = view.results.seconds.epochs
    if not epochs:
        return None
    x = np.arange(len(epochs)) + len(view.rows) - len(epochs) + 1
    with new_plot("time", "seconds of each epoch: steps, validation and the rest") as plot:
        bottom = np.zeros(len(epochs))
        for part, role in (("train", "trial"), ("val", "best"), ("rest", "pruned")):
            heights = np.array([getattr(epoch, part) for epoch in epochs])
            plot.axes.bar(x, heights, 0.8, bottom, color=COLORS[role], linewidth=0)
            bottom += heights
        plot.axes.set_ylabel("seconds")
        plots.epoch_axis(plot.axes, len(view.rows))
        plot.axes.set_xlim(0.5, len(view.rows) + 0.5)
    return plot.svg


def reliability(evaluation: Evaluation) -> Markup:
    """Accuracy by confidence with 95 % intervals; on the diagonal the probabilities are calibrated."""
    with new_plot("reliability", "accuracy by the network's own probability") as plot:
        axes = plot.axes
        axes.plot([0, 1], [0, 1], color=COLORS["quiet"], linewidth=0.8, linestyle=(0, (4, 3)))
        for one in evaluation.bins:
            interval = wilson(one.correct, one.count)
            size = 3.5 + 6 * math.sqrt(one.count / len(evaluation.labels))
            axes.plot([one.confidence] * 2, interval, color=COLORS["trial"], linewidth=1.5, alpha=0.45)
            axes.plot(one.confidence, one.correct / one.count, "o", color=COLORS["trial"], markersize=size)
        axes.set_xlim(-0.02, 1.02)
        axes.set_ylim(-0.02, 1.04)
        axes.set_xlabel("probability of the predicted class")
        axes.set_ylabel("fraction of correct predictions")
    return plot.svg
