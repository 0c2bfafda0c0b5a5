"""One run as a page, ``report.html``."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from smallvision.core.run_dir import write_text
from smallvision.reports import run_pictures, run_words
from smallvision.reports.judged import Evaluation
from smallvision.reports.pages import drawn, render
from smallvision.reports.pixels import filter_sheet, png
from smallvision.reports.run_view import RunView, read

MOST_CLASSES = 20  # that a confusion matrix can be read with
MOST_PAIRS = 8
FILTER_SIDE = 44  # of the page's pixels, about


def write_page(directory: Path, path: Path) -> None:
    """Draw the page of that run directory, whole or not at all; UserError where it holds no run."""
    write_text(path, page(read(directory)))


def page(view: RunView) -> str:
    judged = None
    if view.probabilities is not None and view.labels is not None and len(view.labels):
        judged = Evaluation(view.probabilities, view.labels)
    return render(
        "run_page.html",
        view=view,
        title=run_words.title(view),
        lead=run_words.lead(view),
        warnings=run_words.warnings(view),
        test=run_words.test_figures(view),
        val=run_words.val_figures(view),
        judged=judged,
        matrix=_matrix(view, judged) if judged and len(view.classes) <= MOST_CLASSES else None,
        classes=_classes(view, judged) if judged else [],
        confused=[(_name(view, a), _name(view, b), n) for a, b, n in judged.confused(MOST_PAIRS)] if judged else [],
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
        spent=run_words.spent(view),
        commands=run_words.commands(view),
        typed=view.typed,
        sections=run_words.sections(view),
    )


def _matrix(view: RunView, judged: Evaluation) -> list[tuple[str, list[tuple[int, float]]]]:
    """A row per true class: its name, and each answer's count and shade, from 0 to 1."""
    rows = []
    wrong = judged.confusion - np.diag(np.diag(judged.confusion))
    most = max(int(wrong.max()), 1)
    for index, row in enumerate(judged.confusion):
        total = max(int(row.sum()), 1)
        shades = [n / total if place == index else math.sqrt(n / most) if n else 0.0 for place, n in enumerate(row)]
        rows.append((_name(view, index), [(int(n), float(s)) for n, s in zip(row, shades, strict=True)]))
    return rows


def _classes(view: RunView, judged: Evaluation) -> list[dict[str, Any]]:
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


def _mistakes(view: RunView, judged: Evaluation) -> list[dict[str, Any]]:
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
    if filters is None or not filters.size or filters.shape[1] not in (1, 3) or not np.isfinite(filters).all():
        return None
    side = max(filters.shape[2:])
    sheet = filter_sheet(filters, columns=16 if side <= 12 else 8)
    zoom = max(2, round(FILTER_SIDE / side))
    size = filters.shape[2:]
    return {"picture": png(sheet), "count": len(filters), "size": size, "width": zoom * sheet.shape[1]}


def _name(view: RunView, index: int) -> str:
    return view.classes[index] if index < len(view.classes) else str(index)
