"""What task=predict shows: its predictions as lines, as counts, as rows of predictions.csv and as a sheet of images."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from smallvision.core.console import Console
from smallvision.core.errors import printable
from smallvision.reports.statistics import wilson

WIDTH, MAX_NAME = 80, 30  # characters of a line in the terminal, and of a file's name there
MAX_CLASS = (32, 16)  # of a class with its quotes: where it is alone, and beside the actual one
MAX_LINES = 20  # images printed there
# Of the sheet. Colours that the colour-blind can distinguish: M. Okabe and K. Ito, Color Universal Design, 2008.
CORRECT, WRONG = "#0072b2", "#d55e00"
INK, QUIET, LINE, PAPER, MOUNT, WARNING = "#1a1c1f", "#6b7076", "#dfe2e5", "#ffffff", "#eef0f2", "#b00020"
MARGIN, GAP, PAD, SQUARE_GAP = 36, 20, 10, 4  # pixels
TITLE_SIZE, HEADER_SIZE = 22, 16
MAX_WIDTH = 1560  # of a sheet of few images
# The side of a square by the number of images, so that a sheet of a thousand can still be opened.
SIDES = ((60, 140), (200, 112), (1000, 84))
MAX_SIDE = 200  # pixels; of a square whose side is a multiple of the network's input


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
    def label(self) -> str:
        """The most probable class."""
        return self.top[0][0]

    @property
    def probability(self) -> float:
        return self.top[0][1]

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
        folded = [self._folded(name) for name in classes]
        self.folded = {key: name for key, name in zip(folded, classes, strict=True) if folded.count(key) == 1}
        self.exact = set(classes)

    @staticmethod
    def _folded(name: str) -> str:
        return re.sub(r"[\s/_-]+", " ", name.casefold()).strip()

    def of(self, file: Path) -> str | None:
        folder = Path(os.path.abspath(file)).parent.name  # noqa: PTH100 - resolve() would follow links
        return folder if folder in self.exact else self.folded.get(self._folded(folder)) if folder else None


def one_line(text: str) -> str:
    """The name of a file or a class with control characters and line ends made visible."""
    return printable(text).replace("\n", "\\n")


def shortened(text: str, limit: int = MAX_NAME) -> str:
    """At most ``limit`` characters; cut in the middle, as names differ at their ends."""
    if len(text) <= limit:
        return text
    head = (limit - 1) // 3
    return f"{text[:head]}…{text[len(text) - (limit - 1 - head) :]}"


def quoted(name: str, limit: int) -> str:
    return f'"{shortened(one_line(name), limit - 2)}"'


class PredictionPrinter:
    """Prints the first predictions and counts all of them.

    ``files``: the names of all images, for the width of the columns; ``top``: how many classes are printed of each.
    """

    def __init__(self, console: Console, files: Sequence[str], classes: Sequence[str], top: int) -> None:
        self.console = console
        self.counts, self.labels, self.top = Counts(), FolderLabels(classes), min(top, len(classes))
        self.first_error = ("", "")  # a name and a reason
        first = files[:MAX_LINES]
        actual = {name for file in first if (name := self.labels.of(Path(file))) is not None}
        self._class_limit = MAX_CLASS[bool(actual)]
        self._class_width = len("Predicted: ") + max(len(quoted(name, self._class_limit)) for name in classes)
        self._class_width += max((len(f", Actual: {quoted(name, self._class_limit)}") for name in actual), default=0)
        self._name_limit = min(MAX_NAME, WIDTH - self._class_width - len("      0.0000"))
        self._name_width = max(len(self._name(file)) for file in first)

    def print(self, prediction: Prediction) -> None:
        """Of readable and of unreadable images, the first MAX_LINES each are printed."""
        counts, error = self.counts, prediction.error
        counts.add(prediction)
        if error is not None and not self.first_error[1]:
            self.first_error = (prediction.file, error)
        if (counts.readable if error is None else counts.unreadable) <= MAX_LINES:
            failed = error is not None or prediction.correct is False
            self.console.print(self.line(prediction), "yellow" if failed else "")

    def _name(self, file: str) -> str:
        """As much of its end as there is room for."""
        name, limit = one_line(file), self._name_limit
        return name if len(name) <= limit else f"…{name[1 - limit :]}"

    def line(self, prediction: Prediction) -> str:
        """With as many of the next classes as there is room for."""
        line = f"  {self._name(prediction.file):<{self._name_width}}  "
        if prediction.error is not None:
            return line + shortened(f"not read: {one_line(prediction.error)}", WIDTH - len(line))
        (first, probability), *others = prediction.top
        classes = f"Predicted: {quoted(first, self._class_limit)}"
        classes += f", Actual: {quoted(prediction.actual, self._class_limit)}" if prediction.actual else ""
        line += f"{classes:<{self._class_width}}  {probability:.4f}"
        for place, (other, value) in enumerate(others):
            more = f"{', ' if place else '  then '}{quoted(other, self._class_limit)[1:-1]} {value:.4f}"
            if len(line + more) > WIDTH:
                break
            line += more
        return line

    def print_notes(self) -> None:
        """How many predictions were not printed, and how many images were inverted, blank or unreadable."""
        counts = self.counts
        left_out = max(counts.readable - MAX_LINES, 0) + max(counts.unreadable - MAX_LINES, 0)
        if left_out:
            self.console.print(f"  and {left_out:,} more: predictions.csv has them all")
        images = "1 image is" if counts.readable == 1 else f"{counts.readable:,} images are"
        notes = {
            f"{counts.inverted:,} of {images} dark on light: inverted": counts.inverted,
            f"{counts.blank:,} of {images} blank: no ink was found": counts.blank,
            f"{counts.unreadable:,} of {counts.images:,} files could not be read": counts.unreadable,
        }
        if any(notes.values()):
            self.console.print()
        for note, number in notes.items():
            if number:
                self.console.print(f"  note       {note}", "yellow")


def accuracy_line(counts: Counts) -> str:
    """The accuracy on the images whose class is known, with its interval."""
    low, high = wilson(counts.correct, counts.labelled)
    interval = f"95 % interval {low:.4f} to {high:.4f}, n = {counts.labelled:,}"
    return f"acc {counts.correct / counts.labelled:.4f}  ({interval} in folders of a class)"


def csv_header(top: int) -> list[str]:
    """Of predictions.csv; the most probable class is ``predicted``, the next is class_2."""
    others = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("class", "probability")]
    return ["file", "predicted", "probability", "actual", *others, "polarity", "resize", "error"]


def csv_row(prediction: Prediction, top: int) -> list[str]:
    """In the order of :func:`csv_header`; empty where nothing is known."""
    cells = [cell for name, probability in prediction.top for cell in (one_line(name), f"{probability:.6f}")]
    cells += [""] * (2 * top - len(cells))
    actual, error = one_line(prediction.actual or ""), one_line(prediction.error or "")
    row = [one_line(prediction.file), *cells[:2], actual, *cells[2:]]
    return [*row, prediction.polarity, prediction.resize, error]


# The sheet: each image, what the network sees of it, and its saliency ---------------------------------------------


@dataclass(frozen=True)
class Tile:
    """``thumbnail``: the image; ``seen``: the network's input, C x H x W; ``saliency``: 0 to 1, H x W."""

    prediction: Prediction
    thumbnail: Image.Image
    seen: npt.NDArray[np.uint8]
    saliency: npt.NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Layout:
    """Sizes in pixels. A tile has ``squares`` squares of ``side`` side by side, and ``lines`` lines of text below."""

    side: int
    squares: int
    lines: int

    @classmethod
    def of(cls, tiles: Sequence[Tile]) -> "Layout":
        side = next(side for most, side in SIDES if len(tiles) <= most or most == SIDES[-1][0])
        longest = max(tiles[0].seen.shape[1:])
        multiple = max(side // longest, 1) * longest
        squares = 2 + any(tile.saliency is not None for tile in tiles)
        lines = 2 + any(tile.prediction.actual is not None for tile in tiles)
        return cls(multiple if multiple <= MAX_SIDE else side, squares, lines)

    @property
    def font_size(self) -> int:
        return max(11, round(self.side / 8.5))

    @property
    def line_height(self) -> int:
        return round(self.font_size * 1.4)

    @property
    def width(self) -> int:
        """Of a tile."""
        return 2 * PAD + self.squares * self.side + (self.squares - 1) * SQUARE_GAP

    @property
    def height(self) -> int:
        return 2 * PAD + self.side + 8 + self.lines * self.line_height

    def columns(self, count: int) -> int:
        """As many as fit on a screen; of many tiles as many as make the sheet about square."""
        fitting = max(1, (MAX_WIDTH - 2 * MARGIN + GAP) // (self.width + GAP))
        return min(count, max(fitting, round((count * (self.height + GAP) / (self.width + GAP)) ** 0.5)))


def draw_sheet(tiles: Sequence[Tile], file: Path, title: str, warning: str | None = None) -> None:
    """Write ``tiles`` to ``file`` as PNG, below the title, a legend and the warning."""
    layout = Layout.of(tiles)
    columns = layout.columns(len(tiles))
    legend = "   |   ".join(["image", "what the network sees", "saliency"][: layout.squares])
    header = [(title, font(TITLE_SIZE, bold=True), INK), (legend, font(HEADER_SIZE), QUIET)]
    header += [(warning, font(HEADER_SIZE, bold=True), WARNING)] if warning else []
    top = MARGIN + sum(round(style.size * 1.6) for _, style, _ in header) + 12
    longest = max(round(style.getlength(text)) for text, style, _ in header)
    width = 2 * MARGIN + max(columns * (layout.width + GAP) - GAP, min(longest, MAX_WIDTH))
    height = top + -(-len(tiles) // columns) * (layout.height + GAP) - GAP + MARGIN
    sheet = Image.new("RGB", (width, height), PAPER)
    pen, y = ImageDraw.Draw(sheet), MARGIN
    for text, style, colour in header:
        pen.text((MARGIN, y), fitted(text, style, width - 2 * MARGIN), colour, style)
        y += round(style.size * 1.6)
    for place, tile in enumerate(tiles):
        row, column = divmod(place, columns)
        draw_tile(sheet, tile, layout, MARGIN + column * (layout.width + GAP), top + row * (layout.height + GAP))
    sheet.save(file, format="PNG", optimize=True)


def draw_tile(sheet: Image.Image, tile: Tile, layout: Layout, left: int, top: int) -> None:
    prediction, pen = tile.prediction, ImageDraw.Draw(sheet)
    correct = prediction.correct
    colour, frame, mark = {True: (CORRECT, CORRECT, "✓ "), False: (WRONG, WRONG, "✗ "), None: (INK, LINE, "")}[correct]
    box = (left, top, left + layout.width, top + layout.height)
    pen.rounded_rectangle(box, radius=6, outline=frame, width=1 if correct is None else 2)
    seen = np.broadcast_to(tile.seen[:3], (3, *tile.seen.shape[1:])).transpose(1, 2, 0)
    images = [tile.thumbnail, Image.fromarray(np.ascontiguousarray(seen))]
    if tile.saliency is not None:
        heat = 255 * matplotlib.colormaps["inferno"](tile.saliency.clip(0, 1))[..., :3]
        images.append(Image.fromarray(heat.round().astype(np.uint8)))
    for number, image in enumerate(images):
        square = on_square(image, layout.side, smooth=number == 0)
        sheet.paste(square, (left + PAD + number * (layout.side + SQUARE_GAP), top + PAD))
    bold, plain = font(layout.font_size, bold=True), font(layout.font_size)
    small = font(max(10, layout.font_size - 2))
    (name, value), room = prediction.top[0], layout.width - 2 * PAD
    x, y = left + PAD, top + PAD + layout.side + 6
    probability = f"  {value:.3f}"
    label = fitted(mark + one_line(name), bold, room - plain.getlength(probability))
    pen.text((x, y), label, colour, bold)
    pen.text((x + bold.getlength(label), y), probability, QUIET, plain)
    if prediction.actual is not None:
        y += layout.line_height
        actual = fitted(f"actual: {one_line(prediction.actual)}", plain, room)
        pen.text((x, y), actual, INK if correct is False else QUIET, plain)
    inverted = "  (inverted)" if prediction.polarity == "inverted" else ""
    file = fitted(one_line(prediction.file.rpartition("/")[2]), small, room - small.getlength(inverted))
    pen.text((x, y + layout.line_height), file + inverted, QUIET, small)


def fitted(text: str, style: ImageFont.FreeTypeFont, room: float) -> str:
    """Shortened in the middle until it is at most ``room`` pixels long."""
    text = text[:300]
    cuts = (shortened(text, length) for length in range(len(text), 0, -1))
    return next((cut for cut in cuts if style.getlength(cut) <= room), "")


@cache
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the letters of most languages."""
    file = Path(matplotlib.get_data_path(), "fonts/ttf", f"DejaVuSans{'-Bold' * bold}.ttf")
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


def on_square(image: Image.Image, side: int, smooth: bool) -> Image.Image:
    """In the middle of a square, as large as fits. ``smooth``: a large image is interpolated; else, and where it is
    small, its pixels stay visible.
    """
    scale = side / max(image.size)
    width, height = (max(1, round(length * scale)) for length in image.size)
    large = Resampling.LANCZOS if smooth else Resampling.BOX
    resampling = Resampling.NEAREST if scale >= (2 if smooth else 1) else large
    square = Image.new("RGB", (side, side), MOUNT)
    square.paste(image.resize((width, height), resampling), ((side - width) // 2, (side - height) // 2))
    return square
