"""Images and their predictions as one sheet: each image, what the network sees of it, and its saliency."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from smallvision.reports.predictions import Prediction, one_line, shortened

# Colours that the colour-blind can distinguish: M. Okabe and K. Ito, Color Universal Design, 2008.
CORRECT, WRONG = "#0072b2", "#d55e00"
INK, QUIET, LINE, PAPER, MOUNT, WARNING = "#1a1c1f", "#6b7076", "#dfe2e5", "#ffffff", "#eef0f2", "#b00020"
MARGIN, GAP, PAD, SQUARE_GAP = 36, 20, 10, 4  # pixels
TITLE_SIZE, HEADER_SIZE = 22, 16
MAX_WIDTH = 1560  # of a sheet of few images
# The side of a square by the number of images, so that a sheet of a thousand can still be opened.
SIDES = ((60, 140), (200, 112), (1000, 84))
MAX_SIDE = 200  # pixels; of a square whose side is a multiple of the network's input

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Resampling = Image.Resampling


@dataclass(frozen=True)
class Tile:
    """``thumbnail``: the image; ``seen``: the network's input, uint8, C x H x W; ``saliency``: 0 to 1, H x W."""

    prediction: Prediction
    thumbnail: Image.Image
    seen: Pixels
    saliency: np.ndarray[Any, Any] | None = None


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


def draw(tiles: Sequence[Tile], file: Path, title: str, warning: str | None = None) -> None:
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
    images = [tile.thumbnail, rgb_image(tile.seen)]
    images += [heat_map(tile.saliency)] if tile.saliency is not None else []
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
    if scale >= (2 if smooth else 1):
        resampling = Resampling.NEAREST
    else:
        resampling = Resampling.LANCZOS if smooth else Resampling.BOX
    square = Image.new("RGB", (side, side), MOUNT)
    square.paste(image.resize((width, height), resampling), ((side - width) // 2, (side - height) // 2))
    return square


def rgb_image(seen: Pixels) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(seen[:3], (3, *seen.shape[1:])).transpose(1, 2, 0)))


def heat_map(saliency: np.ndarray[Any, Any]) -> Image.Image:
    colours = matplotlib.colormaps["inferno"](saliency.clip(0, 1))[..., :3]
    return Image.fromarray((colours * 255).round().astype(np.uint8))
