"""The predictions of image files: printed, counted, and as rows of predictions.csv."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smallvision.core.errors import printable
from smallvision.reports.statistics import wilson

MAX_NAME = 48  # characters of a file's name in the terminal
MAX_LINES = 20  # images printed there


@dataclass(frozen=True)
class Prediction:
    """Of one image. ``top``: class names and probabilities, the most probable first; ``actual``: its class where that
    is known; ``polarity`` and ``resize``: how the image was prepared (see data.preprocess). ``error``: why it could not
    be read; then nothing else is known.
    """

    file: str
    top: Sequence[tuple[str, float]] = ()
    actual: str | None = None
    polarity: str = ""
    resize: str = ""
    error: str | None = None

    @property
    def correct(self) -> bool | None:
        """None where the actual class is not known."""
        return None if self.actual is None or not self.top else self.top[0][0] == self.actual


@dataclass
class Counts:
    """Of images; ``labelled``: those whose actual class is known, ``blank``: those without ink."""

    images: int = 0
    unreadable: int = 0
    labelled: int = 0
    correct: int = 0
    inverted: int = 0
    blank: int = 0

    def add(self, prediction: Prediction) -> None:
        self.images += 1
        self.unreadable += prediction.error is not None
        self.labelled += prediction.correct is not None
        self.correct += prediction.correct is True
        self.inverted += prediction.polarity == "inverted"
        self.blank += prediction.resize == "no ink"

    @property
    def readable(self) -> int:
        return self.images - self.unreadable


class FolderLabels:
    """The actual class of a file whose folder is named after a class.

    Case does not count, nor which of "/", "_", "-" and blanks separates words, as long as the classes stay distinct.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.exact = dict.fromkeys(classes)
        self.folded: dict[str, list[str]] = {}
        for name in self.exact:
            self.folded.setdefault(self._folded(name), []).append(name)

    @staticmethod
    def _folded(name: str) -> str:
        return re.sub(r"[\s/_-]+", " ", name.casefold()).strip()

    def of(self, file: Path) -> str | None:
        folder = Path(os.path.abspath(file)).parent.name  # noqa: PTH100 - resolve() would follow links
        if folder in self.exact:
            return folder
        names = self.folded.get(self._folded(folder), []) if folder else []
        return names[0] if len(names) == 1 else None


def one_line(text: str) -> str:
    """The name of a file or a class with control characters and line ends made visible."""
    return printable(text).replace("\n", "\\n")


def shortened(text: str, limit: int = MAX_NAME) -> str:
    """At most ``limit`` characters; cut in the middle, as names differ at their ends."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def quoted(name: str) -> str:
    return f'"{shortened(one_line(name), 32)}"'


class PredictionPrinter:
    """Prints the first predictions and counts all of them.

    ``files``: the names of all images, for the width of the columns; ``top``: how many classes are printed of each.
    """

    def __init__(self, write: Callable[..., None], files: Sequence[str], classes: Sequence[str], top: int) -> None:
        self.write = write
        self.counts, self.labels, self.top = Counts(), FolderLabels(classes), min(top, len(classes))
        self.first_error = ("", "")  # a name and a reason
        first = files[:MAX_LINES]
        self._name_width = max(len(shortened(one_line(file))) for file in first)
        labelled = any(self.labels.of(Path(file)) is not None for file in first)
        longest = max(len(quoted(name)) for name in classes)
        self._class_width = len("Predicted: ") + longest + (len(", Actual: ") + longest) * labelled

    def print(self, prediction: Prediction) -> None:
        """Of readable and of unreadable images, the first MAX_LINES each are printed."""
        counts, error = self.counts, prediction.error
        counts.add(prediction)
        if error is not None and not self.first_error[1]:
            self.first_error = (prediction.file, error)
        if (counts.readable if error is None else counts.unreadable) <= MAX_LINES:
            self.write(self.line(prediction), "" if error is None and prediction.correct is not False else "yellow")

    def line(self, prediction: Prediction) -> str:
        name = shortened(one_line(prediction.file))
        if prediction.error is not None:
            return f"  {name:<{self._name_width}}  not read: {shortened(one_line(prediction.error), 160)}"
        (first, probability), *others = prediction.top
        classes = f"Predicted: {quoted(first)}"
        classes += f", Actual: {quoted(prediction.actual)}" if prediction.actual else ""
        rest = ", ".join(f"{quoted(other)[1:-1]} {value:.4f}" for other, value in others)
        line = f"  {name:<{self._name_width}}  {classes:<{self._class_width}}  {probability:.4f}"
        return line + f"  then {rest}" * bool(rest)

    def print_notes(self) -> None:
        """How many predictions were not printed, and how many images were inverted, blank or unreadable."""
        counts, notes = self.counts, []
        left_out = max(counts.readable - MAX_LINES, 0) + max(counts.unreadable - MAX_LINES, 0)
        if left_out:
            self.write(f"  and {left_out:,} more: predictions.csv has them all")
        images = "1 image is" if counts.readable == 1 else f"{counts.readable:,} images are"
        if counts.inverted:
            notes.append(f"{counts.inverted:,} of {images} dark on light: inverted")
        if counts.blank:
            notes.append(f"{counts.blank:,} of {images} blank: no ink was found")
        if counts.unreadable:
            notes.append(f"{counts.unreadable:,} of {counts.images:,} files could not be read")
        if notes:
            self.write()
        for note in notes:
            self.write(f"  note       {note}", "yellow")


def accuracy_line(counts: Counts) -> str:
    """The accuracy on the images whose class is known, with its interval."""
    low, high = wilson(counts.correct, counts.labelled)
    return (
        f"acc {counts.correct / counts.labelled:.4f}  ({counts.correct:,} correct; 95 % interval {low:.4f} to"
        f" {high:.4f}, n = {counts.labelled:,} in folders named after a class)"
    )


def csv_header(top: int) -> list[str]:
    """Of predictions.csv; the most probable class is ``predicted``, the next is class_2."""
    others = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("class", "probability")]
    return ["file", "predicted", "probability", "actual", *others, "polarity", "resize", "error"]


def csv_row(prediction: Prediction, top: int) -> list[str]:
    """In the order of :func:`csv_header`; empty where nothing is known."""
    pairs = [(one_line(name), f"{probability:.6f}") for name, probability in prediction.top]
    pairs += [("", "")] * (top - len(pairs))
    others = [cell for pair in pairs[1:] for cell in pair]
    actual, error = one_line(prediction.actual or ""), one_line(prediction.error or "")
    row = [one_line(prediction.file), *pairs[0], actual, *others]
    return [*row, prediction.polarity, prediction.resize, error]
