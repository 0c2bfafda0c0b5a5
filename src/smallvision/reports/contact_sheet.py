"""The pictures that a network was asked about on one sheet, with what it saw and what it said."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from smallvision.reports.predictions import Prediction, one_line, shortened

# Colours that the colour-blind tell apart: M. Okabe and K. Ito, Color Universal Design, 2008.
RIGHT, WRONG = "#0072b2", "#d55e00"
INK, QUIET, LINE, PAPER, MOUNT, ALARM = "#1a1c1f", "#6b7076", "#dfe2e5", "#ffffff", "#eef0f2", "#b00020"
MARGIN, GAP, PAD, HEAD = 36, 20, 10, 22  # pixels
WIDEST = 1560  # of a sheet of few pictures
# How large a square is to be, by the pictures on the sheet: a sheet of a thousand is still to open.
SIDES = ((60, 140), (200, 112), (1000, 84))
LARGEST = 200  # pixels; of a square

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Tile:
    """``picture``: as it was, small; ``seen``: what the network saw, uint8,
    C x H x W; ``saliency``: floats from 0 to 1, H x W.
    """

    said: Prediction
    picture: Image.Image
    seen: Pixels
    saliency: np.ndarray[Any, Any] | None = None


def draw(tiles: Sequence[Tile], file: Path, title: str, alarm: str | None = None) -> None:
    """Write ``tiles`` to ``file`` as PNG. ``alarm``: a line that nobody is to miss."""
    target = next(side for most, side in SIDES if len(tiles) <= most or most == SIDES[-1][0])
    high, wide = tiles[0].seen.shape[1:]
    side = max(target // max(high, wide), 1) * max(high, wide)
    side = side if side <= LARGEST else target
    squares = 2 + any(tile.saliency is not None for tile in tiles)
    known = any(tile.said.actual is not None for tile in tiles)
    text = max(11, round(side / 8.5))
    tile_wide = 2 * PAD + squares * side + (squares - 1) * 4
    tile_high = 2 * PAD + side + 8 + (3 if known else 2) * round(text * 1.4)
    columns = _columns(len(tiles), tile_wide, tile_high)
    rows = -(-len(tiles) // columns)
    legend = ["the picture", "what the network sees", "what the answer hangs on"][:squares]
    words = [(title, HEAD, INK, True), ("   |   ".join(legend), 16, QUIET, False)]
    words += [(alarm, 16, ALARM, True)] if alarm else []
    top = MARGIN + sum(round(size * 1.6) for _, size, _, _ in words) + 12
    longest = max(round(_font(size, bold).getlength(line)) for line, size, _, bold in words)
    width = 2 * MARGIN + max(columns * (tile_wide + GAP) - GAP, min(longest, WIDEST))
    sheet = Image.new("RGB", (width, top + rows * (tile_high + GAP) - GAP + MARGIN), PAPER)
    pen, y = ImageDraw.Draw(sheet), MARGIN
    for line, size, colour, bold in words:
        pen.text((MARGIN, y), _fitted(line, _font(size, bold), width - 2 * MARGIN), colour, _font(size, bold))
        y += round(size * 1.6)
    for place, tile in enumerate(tiles):
        left = MARGIN + place % columns * (tile_wide + GAP)
        above = top + place // columns * (tile_high + GAP)
        _draw_tile(sheet, pen, tile, (left, above, left + tile_wide, above + tile_high), side, text)
    sheet.save(file, format="PNG", optimize=True)


def _columns(count: int, wide: int, high: int) -> int:
    """As many as a screen is wide; of many tiles as many as make the sheet about square."""
    by_width = max(1, (WIDEST - 2 * MARGIN + GAP) // (wide + GAP))
    return min(count, max(by_width, round((count * (high + GAP) / (wide + GAP)) ** 0.5)))


def _draw_tile(
    sheet: Image.Image,
    pen: ImageDraw.ImageDraw,
    tile: Tile,
    box: tuple[int, int, int, int],
    side: int,
    text: int,
) -> None:
    left, top, right, _ = box
    outcome = tile.said.right
    colour = {True: RIGHT, False: WRONG, None: INK}[outcome]
    frame = colour if outcome is not None else LINE
    pen.rounded_rectangle(box, radius=6, outline=frame, width=1 if outcome is None else 2)
    squares = [_mounted(tile.picture, side), _enlarged(_coloured(tile.seen), side)]
    if tile.saliency is not None:
        squares.append(_enlarged(_heat(tile.saliency), side))
    for number, square in enumerate(squares):
        sheet.paste(square, (left + PAD + number * (side + 4), top + PAD))
    (name, probability), room = tile.said.top[0], right - left - 2 * PAD
    mark = {True: "✓ ", False: "✗ ", None: ""}[outcome]
    share = f"  {probability:.3f}" if probability < 0.9995 else "  1.000"
    bold, plain, small = _font(text, True), _font(text, False), _font(max(10, text - 2), False)
    y, step = top + PAD + side + 6, round(text * 1.4)
    said = _fitted(mark + one_line(name), bold, room - plain.getlength(share))
    pen.text((left + PAD, y), said, colour, bold)
    pen.text((left + PAD + bold.getlength(said), y), share, QUIET, plain)
    if tile.said.actual is not None:
        y += step
        actual = f"actual: {one_line(tile.said.actual)}"
        pen.text((left + PAD, y), _fitted(actual, plain, room), INK if outcome is False else QUIET, plain)
    inverted = "  (inverted)" if tile.said.polarity == "inverted" else ""
    file = one_line(tile.said.file.rpartition("/")[2])
    file = _fitted(file, small, room - small.getlength(inverted)) + inverted
    pen.text((left + PAD, y + step), file, QUIET, small)


def _fitted(words: str, font: ImageFont.FreeTypeFont, room: float) -> str:
    """Shortened in the middle until it is at most ``room`` pixels long."""
    words = words[:300]
    for most in range(len(words), 0, -1):
        cut = shortened(words, most)
        if font.getlength(cut) <= room:
            return cut
    return ""


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib and has the letters of most languages."""
    file = Path(matplotlib.get_data_path(), "fonts/ttf", f"DejaVuSans{'-Bold' * bold}.ttf")
    return ImageFont.truetype(str(file), size, layout_engine=ImageFont.Layout.BASIC)


def _mounted(picture: Image.Image, side: int) -> Image.Image:
    """The whole picture in the middle of a square; a small one with its pixels enlarged."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    fitted = picture.resize(size, Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.LANCZOS)
    mount = Image.new("RGB", (side, side), MOUNT)
    mount.paste(fitted, ((side - fitted.width) // 2, (side - fitted.height) // 2))
    return mount


def _enlarged(picture: Image.Image, side: int) -> Image.Image:
    """With its pixels to be seen, on a square."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    grows = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    mount = Image.new("RGB", (side, side), MOUNT)
    mount.paste(picture.resize(size, grows), ((side - size[0]) // 2, (side - size[1]) // 2))
    return mount


def _coloured(seen: Pixels) -> Image.Image:
    planes = seen if len(seen) == 3 else np.repeat(seen[:1], 3, axis=0)
    return Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))


def _heat(saliency: np.ndarray[Any, Any]) -> Image.Image:
    colours = matplotlib.colormaps["inferno"](saliency.clip(0, 1))[..., :3]
    return Image.fromarray((colours * 255).round().astype(np.uint8))
