"""What a network said of pictures, in words and as rows."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from smallvision.core.errors import printable
from smallvision.reports.statistics import wilson

LONGEST = 48  # letters of a file's name on the screen
LINES = 20  # pictures told of there


@dataclass(frozen=True)
class Prediction:
    """Of one picture. ``top``: class names and probabilities, the likeliest first; ``actual``: the class
    where it is known; ``polarity`` and ``resize``: how the picture was brought to the network (see
    data.preprocess). ``error``: why it could not be read; then nothing else is known.
    """

    file: str
    top: Sequence[tuple[str, float]] = ()
    actual: str | None = None
    polarity: str = ""
    resize: str = ""
    error: str | None = None

    @property
    def right(self) -> bool | None:
        """None where the truth is not known."""
        return None if self.actual is None or not self.top else self.top[0][0] == self.actual


@dataclass
class Tally:
    """Counts over all pictures."""

    pictures: int = 0
    unreadable: int = 0
    known: int = 0
    right: int = 0
    inverted: int = 0
    without_ink: int = 0

    def add(self, one: Prediction) -> None:
        self.pictures += 1
        self.unreadable += one.error is not None
        self.known += one.right is not None
        self.right += one.right is True
        self.inverted += one.polarity == "inverted"
        self.without_ink += one.resize == "no ink"

    @property
    def read(self) -> int:
        return self.pictures - self.unreadable


class Truths:
    """Which class a file is of, where the folder that it lies in is called as a class is.

    Capital letters do not count, nor which of "/", "_", "-" and blanks stands between words, as long as
    that leaves the classes apart.
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


def one_line(words: str) -> str:
    """A name of a file or a class, with what a terminal would obey, and the line's end, shown."""
    return printable(words).replace("\n", "\\n")


def shortened(words: str, most: int = LONGEST) -> str:
    """At most ``most`` letters; the middle goes first, as names differ at their ends."""
    if len(words) <= most:
        return words
    head = (most - 1) // 3
    return f"{words[:head]}…{words[len(words) - (most - 1 - head) :]}"


class Telling:
    """Says on the screen what each picture shows, a bounded number of lines, and keeps count.

    ``files``: the names of all of them, known beforehand. ``top``: classes told of each.
    """

    def __init__(self, say: Callable[..., None], files: Sequence[str], classes: Sequence[str], top: int) -> None:
        self.print, self.count = say, len(files)
        self.tally, self.truths, self.top = Tally(), Truths(classes), min(top, len(classes))
        self.first_error = ("", "")  # a name and a reason
        first = files[:LINES]
        self._name = max(len(shortened(one_line(file))) for file in first)
        known = any(self.truths.of(Path(file)) is not None for file in first)
        longest = max(len(quoted(name)) for name in classes)
        self._said = len("Predicted: ") + longest + (len(", Actual: ") + longest) * known

    def tell(self, one: Prediction) -> None:
        """The first ones are said; of those that cannot be read, LINES in any case."""
        self.tally.add(one)
        if one.error is not None:
            self.first_error = self.first_error if self.first_error[1] else (one.file, one.error)
        told = self.tally.unreadable if one.error is not None else self.tally.read
        if told <= LINES:
            self.print(self.line(one), "yellow" if one.error is not None or one.right is False else "")

    def line(self, one: Prediction) -> str:
        name = shortened(one_line(one.file))
        if one.error is not None:
            return f"  {name:<{self._name}}  not read: {shortened(one_line(one.error), 160)}"
        (first, probability), *others = one.top
        said = f"Predicted: {quoted(first)}" + (f", Actual: {quoted(one.actual)}" if one.actual else "")
        rest = ", ".join(f"{quoted(other)[1:-1]} {share:.4f}" for other, share in others)
        return f"  {name:<{self._name}}  {said:<{self._said}}  {probability:.4f}" + f"  then {rest}" * bool(rest)

    def end(self) -> None:
        """What holds for all of them."""
        tally, notes = self.tally, []
        untold = max(tally.read - LINES, 0) + max(tally.unreadable - LINES, 0)
        if untold:
            self.print(f"  and {untold:,} more: predictions.csv has them all")
        if tally.inverted:
            notes.append(f"{tally.inverted:,} of {_pictures(tally.read)} dark on light: inverted")
        if tally.without_ink:
            notes.append(f"{tally.without_ink:,} of {_pictures(tally.read)} empty: no ink to be seen")
        if tally.unreadable:
            notes.append(f"{tally.unreadable:,} of {tally.pictures:,} files could not be read")
        if notes:
            self.print()
        for note in notes:
            self.print(f"  note       {note}", "yellow")


def _pictures(count: int) -> str:
    return "1 picture is" if count == 1 else f"{count:,} pictures are"


def quoted(name: str) -> str:
    return f'"{shortened(one_line(name), 32)}"'


def accuracy_line(tally: Tally) -> str:
    """How many are right of those whose truth is known, with its interval."""
    low, high = wilson(tally.right, tally.known)
    return (
        f"acc {tally.right / tally.known:.4f}  ({tally.right:,} right; 95 % interval {low:.4f} to {high:.4f},"
        f" n = {tally.known:,} in folders called as a class)"
    )


def columns(top: int) -> list[str]:
    """Of predictions.csv; the likeliest class is ``predicted``, the next is class_2."""
    others = [f"{word}_{place}" for place in range(2, top + 1) for word in ("class", "probability")]
    return ["file", "predicted", "probability", "actual", *others, "polarity", "resize", "error"]


def row(one: Prediction, top: int) -> list[str]:
    """In the order of :func:`columns`; empty where there is nothing to say."""
    pairs = [(one_line(name), f"{share:.6f}") for name, share in one.top]
    pairs += [("", "")] * (top - len(pairs))
    actual = "" if one.actual is None else one_line(one.actual)
    others = [word for pair in pairs[1:] for word in pair]
    error = "" if one.error is None else one_line(one.error)
    return [one_line(one.file), *pairs[0], actual, *others, one.polarity, one.resize, error]
