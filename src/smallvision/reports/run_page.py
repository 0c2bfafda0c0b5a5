"""One run as a page, ``report.html``."""

import math
import shlex
from pathlib import Path
from typing import Any

import numpy as np

from smallvision.files import write_text
from smallvision.reports import run_pictures
from smallvision.reports.judged import Judged
from smallvision.reports.pages import drawn, render
from smallvision.reports.pixels import filter_sheet, png
from smallvision.reports.run_view import RunView, read
from smallvision.reports.statistics import wilson
from smallvision.reports.words import counted, duration, figure
from smallvision.runs import command

MOST_CLASSES = 20  # that a confusion matrix can be read with
MOST_PAIRS = 8
FILTER_SIDE = 44  # of the page's pixels, about
SECTIONS = (
    "data", "model", "optimizer", "param_groups", "scheduler", "loss", "trainer", "early_stopping", "tta",
    "device", "logger", "checkpoint",
)  # fmt: skip


def write_page(directory: Path, path: Path) -> None:
    """Draw the page of that run directory, whole or not at all; Refusal where it holds no run."""
    write_text(path, page(read(directory)))


def page(view: RunView) -> str:
    judged = None
    if view.probabilities is not None and view.labels is not None and len(view.labels):
        judged = Judged(view.probabilities, view.labels)
    return render(
        "run_page.html",
        view=view,
        title=_title(view),
        lead=_lead(view),
        warnings=_warnings(view),
        test=_test(view),
        val=_val(view),
        judged=judged,
        matrix=_matrix(view, judged) if judged and len(view.classes) <= MOST_CLASSES else None,
        classes=_classes(view, judged) if judged else [],
        confused=[(_name(view, a), _name(view, b), n) for a, b, n in judged.confused(MOST_PAIRS)]
        if judged
        else [],
        mistakes=_mistakes(view, judged) if judged else [],
        wrong=int((~judged.is_right).sum()) if judged else 0,
        samples=_samples(view),
        filters=_filters(view),
        pictures={
            "loss": drawn(lambda: run_pictures.learning(view, "loss")),
            "acc": drawn(lambda: run_pictures.learning(view, "acc")),
            "lr": drawn(lambda: run_pictures.rate(view)),
            "time": drawn(lambda: run_pictures.time(view)),
            "reliability": drawn(lambda: run_pictures.reliability(judged)) if judged else None,
        },
        spent=_spent(view),
        commands=_commands(view),
        typed=view.typed,
        sections=_sections(view),
    )


def _title(view: RunView) -> str:
    return f"{view.data['name']}, {view.model}, {view.optimizer}"


def _lead(view: RunView) -> str:
    """What ran and how it ended, in a few sentences."""
    network = f"the network {view.model} ({view.parameters:,} parameters)"
    if view.task == "test":
        after = (
            f" after {counted(view.epochs, 'epoch')} of training" if view.epochs else ", a bare state dict"
        )
        return f"A test of {network}{after}."
    learnt = "learnt" if view.status == "completed" else "began to learn"
    began = f"{network[0].upper()}{network[1:]} {learnt} {view.data['train']:,} images"
    ends = {
        "completed": f"for {counted(view.epochs, 'epoch')}, to the end.",
        "interrupted": f"and was interrupted after {counted(view.steps, 'step')}.",
        "pruned": f"and its sweep ended it after {counted(view.epochs, 'epoch')}.",
        "failed": f"and failed after {counted(view.steps, 'step')}.",
    }
    said = f"{began} {ends.get(view.status, f'({view.status}).')}"
    if view.best_epoch and view.data["val"]:
        said += f" Validation chose epoch {view.best_epoch}"
        said += ", which was tested once." if view.tested else "."
    return said


def _warnings(view: RunView) -> list[tuple[str, str]]:
    """What every figure on the page must be read with: a headline and a sentence each."""
    found = []
    named = view.data["stand_in_for"]
    if named:
        found.append(
            (f"Not {named}.", f"Its images were not there; every figure on this page comes from a stand-in"
             f" ({view.data['source']}) and says nothing about {named}.")
        )  # fmt: skip
    if view.data["remark"]:
        found.append(("About the data:", f"{view.data['remark']}."))
    if 0 < view.tested < view.data["test"]:
        found.append(
            (
                "Partial test.",
                f"Only {view.tested:,} of the {view.data['test']:,} test images were looked at.",
            )
        )
    if view.unsaved:
        found.append(
            ("Not all could be saved:", f"{counted(len(view.unsaved), 'time')}, last {view.unsaved[-1]}.")
        )
    return found


def _test(view: RunView) -> dict[str, Any] | None:
    """The test accuracy and its interval."""
    accuracy = view.metrics["test/acc"]
    if accuracy is None or not 0 <= accuracy <= 1 or not view.tested:
        return None
    low, high = wilson(round(accuracy * view.tested), view.tested)
    return {"acc": accuracy, "loss": view.metrics["test/loss"], "low": low, "high": high, "n": view.tested}


def _val(view: RunView) -> dict[str, Any] | None:
    accuracy, count = view.metrics["val/acc"], view.data["val"]
    if accuracy is None or not 0 <= accuracy <= 1 or not count:
        return None
    low, high = wilson(round(accuracy * count), count)
    return {"acc": accuracy, "loss": view.metrics["val/loss"], "low": low, "high": high, "n": count}


def _matrix(view: RunView, judged: Judged) -> list[tuple[str, list[tuple[int, float]]]]:
    """A row per true class: its name, and each answer's count and shade, from 0 to 1."""
    rows = []
    wrong = judged.confusion - np.diag(np.diag(judged.confusion))
    most = max(int(wrong.max()), 1)
    for index, row in enumerate(judged.confusion):
        total = max(int(row.sum()), 1)
        shades = [
            n / total if place == index else math.sqrt(n / most) if n else 0.0 for place, n in enumerate(row)
        ]
        rows.append((_name(view, index), [(int(n), float(s)) for n, s in zip(row, shades, strict=True)]))
    return rows


def _classes(view: RunView, judged: Judged) -> list[dict[str, Any]]:
    """The classes, the hardest first, with their intervals as places along one scale."""
    found = sorted(judged.classes, key=lambda one: one.right / one.count)
    lowest = min((one.interval[0] for one in found), default=0.0)
    start = math.floor(lowest * 10) / 10
    start = start if start < 1 else 0.9

    def place(share: float) -> float:
        return round(100 * (share - start) / (1 - start), 1)

    return [
        {
            "name": _name(view, one.index),
            "right": one.right,
            "count": one.count,
            "acc": one.right / one.count,
            "low": one.interval[0],
            "high": one.interval[1],
            "at": place(one.right / one.count),
            "from": place(one.interval[0]),
            "to": place(one.interval[1]),
            "taken_for": (_name(view, one.taken_for[0]), one.taken_for[1]) if one.taken_for else None,
        }
        for one in found
    ]


def _mistakes(view: RunView, judged: Judged) -> list[dict[str, Any]]:
    pictures, index = view.arrays.get("mistakes"), view.arrays.get("mistake_index")
    if pictures is None or index is None:
        return []
    return [
        {
            "picture": png(picture),
            "number": int(number),
            "predicted": _name(view, int(judged.predicted[number])),
            "actual": _name(view, int(judged.labels[number])),
            "probability": float(judged.confidence[number]),
        }
        for picture, number in zip(pictures, index, strict=True)
    ]


def _samples(view: RunView) -> list[dict[str, Any]]:
    pictures, labels = view.arrays.get("samples"), view.arrays.get("sample_labels")
    if pictures is None or labels is None:
        return []
    return [
        {"picture": png(picture), "name": _name(view, int(label))}
        for picture, label in zip(pictures, labels, strict=True)
    ]


def _filters(view: RunView) -> dict[str, Any] | None:
    filters = view.arrays.get("filters")
    if (
        filters is None
        or not filters.size
        or filters.shape[1] not in (1, 3)
        or not np.isfinite(filters).all()
    ):
        return None
    side = max(filters.shape[2:])
    sheet = filter_sheet(filters, columns=16 if side <= 12 else 8)
    zoom = max(2, round(FILTER_SIDE / side))
    size = filters.shape[2:]
    return {"picture": png(sheet), "count": len(filters), "size": size, "width": zoom * sheet.shape[1]}


def _spent(view: RunView) -> list[tuple[str, str]]:
    """Where the time went, in words."""
    sums = {part: sum(epoch[part] for epoch in view.epoch_seconds) for part in ("train", "val", "rest")}
    found = [
        ("training steps", sums["train"]),
        ("validation", sums["val"]),
        ("checkpoints and the rest", sums["rest"]),
    ]
    found = found if view.epoch_seconds else []
    found += [("test", view.seconds["test"] or 0.0), ("in all, with loading", view.seconds["total"] or 0.0)]
    return [(words, duration(seconds)) for words, seconds in found if seconds]


def _commands(view: RunView) -> list[tuple[str, str]]:
    run = str(view.directory)
    best = view.checkpoint or ""
    inside = (view.directory / best).is_file() and not Path(best).is_absolute()
    checkpoint = str(view.directory / best) if inside and view.task == "fit" else best
    found = []
    if view.task == "fit":
        if view.status in ("interrupted", "failed"):
            found.append(("Go on from where it ended", command(f"resume={run}")))
        found.append(("Run it again from the start", command(*view.typed)))
        if view.status == "completed":
            more = 2 * view.epochs
            found.append(("Train it further", command(f"resume={run}", f"trainer.max_epochs={more}")))
    if checkpoint:
        found += [
            ("Test it again", command("task=test", f"checkpoint={checkpoint}")),
            ("Ask it about pictures", command("task=predict", f"checkpoint={checkpoint}", "images=FILES")),
            ("Take it elsewhere", command("task=export", f"checkpoint={checkpoint}", "format=onnx")),
        ]
    return found


def _sections(view: RunView) -> list[tuple[str, list[tuple[str, str, bool]]]]:
    """The configuration, section by section: key, value, and whether it was typed."""
    typed = {one.lstrip("+").partition("=")[0].replace("/", ".") for one in view.typed}
    plain = [
        (key, _shown(value), key in typed)
        for key, value in view.config.items()
        if not isinstance(value, dict)
    ]
    found = [("", plain)]
    for name in SECTIONS:
        if isinstance(view.config.get(name), dict):
            entries = _flat(view.config[name], f"{name}.")
            found.append((name, [(key, _shown(value), key in typed) for key, value in entries]))
    return [(name, entries) for name, entries in found if entries]


def _flat(tree: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    flat: list[tuple[str, Any]] = []
    for key, value in tree.items():
        whole = f"{prefix}{key}"
        flat += _flat(value, f"{whole}.") if isinstance(value, dict) and value else [(whole, value)]
    return flat


def _shown(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return figure(value) if isinstance(value, float) and abs(value) > 1e4 else str(value)


def _name(view: RunView, index: int) -> str:
    return view.classes[index] if index < len(view.classes) else str(index)


def typed_line(view: RunView) -> str:
    return shlex.join(view.typed)
