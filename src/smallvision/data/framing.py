"""A picture of any size becomes what a network takes: channels x height x width, as its data set has them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from smallvision.data.ink import as_mnist, averaged, border, dark_on_light, levelled
from smallvision.data.pictures import MODES, opaque, squeezed

DIGITS = ("mnist", "digits")
LIGHT_ON_DARK = (*DIGITS, "fashion_mnist")
MARGIN = 24  # grey levels away from the ground: what is nearer to it belongs to it
FULL = 0.85  # of the picture's longer side: a garment that takes so much is left as it lies
WORKING_SIDE = 1024  # pixels; a larger picture is made smaller before anything is looked for in it

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Wanted:
    """What the network takes, and how pictures are to be brought to it.

    ``data``: the data set that it learnt from, as :func:`kind` names it. ``polarity``: auto, keep, invert;
    ``frame``: auto, squeeze, crop, pad.
    """

    channels: int
    height: int
    width: int
    data: str
    polarity: str = "auto"
    frame: str = "auto"


@dataclass(frozen=True)
class Framed:
    """``pixels``: uint8, channels x height x width. ``polarity``: kept or inverted. ``frame``: untouched,
    resized, centred (as MNIST was made), no ink (so nothing to centre), squeezed,
    cropped or padded (clothes: wide margins trimmed before).
    """

    pixels: Pixels
    polarity: str
    frame: str


def kind(plain: dict[str, Any]) -> str:
    """The data set behind a checkpoint, by its "smallvision" part: what it was, not what it stood in for.

    A folder's or a file's own name means nothing, unless the images are as dark as MNIST's.
    """
    chosen = plain["config"]["data"]["name"]
    if chosen in ("folder", "shapes"):
        return str(chosen)
    name = str(plain["data"]["name"])
    light = sum(plain["mean"]) > 0.5 * len(plain["mean"])
    return "other" if name in LIGHT_ON_DARK and light else name


def bring(picture: Image.Image, wanted: Wanted) -> Framed:
    """``picture``: upright, of 8 bits, as ``pictures.opened`` gives it."""
    size = (wanted.width, wanted.height)
    # A folder's pictures were laid on white before the network saw them.
    picture = opaque(picture, "white" if wanted.data == "folder" else None)
    by_mnists_rules = wanted.frame == "auto" and wanted.data in DIGITS
    if picture.size == size:
        pixels, frame = np.asarray(picture.convert(MODES[wanted.channels])), "untouched"
    elif wanted.frame == "squeeze" or (wanted.frame == "auto" and wanted.data == "folder"):
        pixels, frame = np.asarray(squeezed(picture, wanted.channels, size)), "squeezed"
    elif by_mnists_rules:
        return _as_mnist(picture, wanted)
    else:
        pixels = np.asarray(_working(picture.convert(MODES[wanted.channels])))
        crops = wanted.frame == "crop" or (wanted.frame == "auto" and wanted.data != "fashion_mnist")
        ground = np.median(border(pixels), axis=0).astype(np.uint8)
        trims = wanted.frame == "auto" and not crops
        pixels, frame = (
            _cropped(pixels, size) if crops else _padded(_trimmed(pixels) if trims else pixels, size, ground)
        )
    inverted = _is_inverted(np.asarray(_working(picture.convert("L"))), wanted)
    return Framed(_planes(255 - pixels if inverted else pixels), _word(inverted), frame)


def _as_mnist(picture: Image.Image, wanted: Wanted) -> Framed:
    """A digit of another size than the network's."""
    grey = np.asarray(_working(picture.convert("L")), dtype=np.float32)
    ink, inverted = levelled(grey)
    if wanted.polarity != "auto" and inverted != (wanted.polarity == "invert"):
        inverted = wanted.polarity == "invert"
        ink = 255 - grey if inverted else grey
    placed, frame = as_mnist(ink, wanted.height, wanted.width)
    pixels = placed.round().clip(0, 255).astype(np.uint8)
    return Framed(_planes(np.stack([pixels] * wanted.channels, -1)), _word(inverted), frame)


def _is_inverted(grey: Pixels, wanted: Wanted) -> bool:
    if wanted.polarity != "auto":
        return wanted.polarity == "invert"
    return wanted.data in LIGHT_ON_DARK and dark_on_light(grey)


def _word(inverted: bool) -> str:
    return "inverted" if inverted else "kept"


def _working(picture: Image.Image) -> Image.Image:
    return picture.reduce(max(1, -(-max(picture.size) // WORKING_SIDE)))


def _cropped(pixels: Pixels, size: tuple[int, int]) -> tuple[Pixels, str]:
    """The middle of it, of the network's proportions."""
    (height, width), (wide, high) = pixels.shape[:2], size
    scale = min(height / high, width / wide)
    rows, columns = max(1, round(high * scale)), max(1, round(wide * scale))
    top, left = (height - rows) // 2, (width - columns) // 2
    return _sized(pixels[top : top + rows, left : left + columns], size), "cropped"


def _trimmed(pixels: Pixels) -> Pixels:
    """Without wide margins of the ground's colour.

    So Fashion-MNIST was made: H. Xiao et al., arXiv:1708.07747, section 2, trim the photographs, bring the
    longest side to 28 pixels and extend the other. Its images have hardly a margin along the longer side.
    """
    ground = np.median(border(pixels), axis=0)
    away = np.abs(pixels - ground)
    away = away if away.ndim == 2 else away.max(2)
    seen = away > MARGIN
    if not seen.any():
        return pixels
    rows, columns = np.nonzero(seen.any(1))[0], np.nonzero(seen.any(0))[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    if max(bottom - top, right - left) > FULL * max(seen.shape):
        return pixels
    return pixels[top:bottom, left:right]


def _padded(pixels: Pixels, size: tuple[int, int], ground: Pixels) -> tuple[Pixels, str]:
    """All of it, on that ``ground``, of the network's proportions."""
    (height, width), (wide, high) = pixels.shape[:2], size
    scale = max(height / high, width / wide)
    rows, columns = max(1, round(height / scale)), max(1, round(width / scale))
    small = _sized(pixels, (columns, rows))
    canvas = np.empty((high, wide, *pixels.shape[2:]), np.uint8)
    canvas[:] = ground
    top, left = (high - rows) // 2, (wide - columns) // 2
    canvas[top : top + rows, left : left + columns] = small
    return canvas, "padded"


def _sized(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return averaged(pixels, size[1], size[0]).round().clip(0, 255).astype(np.uint8)


def _planes(pixels: Pixels) -> Pixels:
    """H x W or H x W x C to C x H x W."""
    planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(planes, dtype=np.uint8)
