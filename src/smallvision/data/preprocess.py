"""A picture of any size becomes what a network takes: channels x height x width, as its data set has them."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from smallvision.core.system import cores
from smallvision.data.image_files import MODES, Source, Unreadable, opaque, opened, squeezed, thumbnail

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


Grey = np.ndarray[Any, np.dtype[np.float32]]  # height x width, from 0 to 255

BOX = 20 / 28  # the ink's longest side, of the picture's
INK = 64.0  # from here on, of 255, a pixel is ink
SPECK = 0.03  # of the largest stroke's ink: anything less is dirt
CONTRAST = 12.0  # below it there is no ink
UNEVEN = 0.12  # of the contrast: a border that varies by more is lit unevenly
PALE = 224.0  # ink that does not reach it is made stronger
NOISE = 1.5  # grey levels: the paper's grain, below which the ground is clean
THIN = 1.7 / 28  # a stroke's width, of the picture's side: MNIST's pen was a thick one
SURFACE_SIDE = 64  # the ground's lightness is looked at in no finer a picture


def border(grey: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values along the four sides, a fiftieth of the shorter side deep."""
    deep = max(1, min(grey.shape[:2]) // 50)
    middle = grey[deep:-deep]
    parts = (grey[:deep], grey[-deep:], middle[:, :deep], middle[:, -deep:])
    return np.concatenate([part.reshape(-1, *grey.shape[2:]) for part in parts])


def dark_on_light(grey: np.ndarray[Any, Any]) -> bool:
    """Whether the ground, as the border shows it, is lighter than the middle between darkest and lightest."""
    low, high = float(grey.min()), float(grey.max())
    ground = float(np.median(border(grey)))
    return ground > (low + high) / 2 or (low == high and low > 127)


def averaged(picture: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """``picture``, H x W or H x W x C, brought to that size; float32.

    Each new pixel is the mean over the area that it covers, also where that cuts through old pixels; a side
    that grows is interpolated between their middles.
    """
    rows, columns = _weights(picture.shape[0], height), _weights(picture.shape[1], width)
    down = np.tensordot(rows, picture.astype(np.float32), axes=(1, 0))
    return np.moveaxis(np.tensordot(columns, down, axes=(1, 1)), 0, 1)


def _weights(old: int, new: int) -> Grey:
    """new x old; each row sums to 1."""
    edges = np.arange(new + 1) * (old / new)
    if new <= old:
        first, last = edges[:-1, None], edges[1:, None]
        pixels = np.arange(old)
        covered = np.minimum(last, pixels + 1) - np.maximum(first, pixels)
        return (covered.clip(0) * (new / old)).astype(np.float32)
    places = ((edges[:-1] + edges[1:]) / 2 - 0.5).clip(0, old - 1)
    return (1 - np.abs(places[:, None] - np.arange(old))).clip(0).astype(np.float32)


def levelled(grey: np.ndarray[Any, Any]) -> tuple[Grey, bool]:
    """Light ink on a ground of 0, and whether it was dark on light.

    A clean picture's levels stay as they are, or 255 less that. Where the light is uneven, a smooth surface
    is taken off; where the ground has a grain, or the ink is pale, they are made 0 and 255.
    """
    values = np.asarray(grey, dtype=np.float32)
    span = float(np.ptp(values))
    low, high = np.percentile(border(values), (5, 95))
    ground: Any = np.float32(np.median(border(values)))
    dark = dark_on_light(values)
    if span > CONTRAST and high - low > UNEVEN * span:
        ground = _surface(values)
        away = values - ground
        dark = bool(-away.min() > away.max())
    ink = ((ground - values) if dark else (values - ground)).astype(np.float32)
    grain = 1.4826 * float(np.median(np.abs(ink)))
    ink = ink.clip(0)
    peak = float(ink.max())
    if peak < CONTRAST:
        return ink, dark
    peak = float(np.percentile(ink[ink > peak / 2], 90))
    if peak < PALE or grain > NOISE:
        floor = min(4 * grain, 0.3 * peak)
        ink = (ink - floor) * (255 / (peak - floor))
    return ink.clip(0, 255), dark


def _surface(values: Grey) -> Grey:
    """The ground's lightness everywhere: a polynomial of degree 2, fitted with little heed to the ink."""
    height, width = values.shape
    small = averaged(values, min(height, SURFACE_SIDE), min(width, SURFACE_SIDE))

    def terms(rows: int, columns: int) -> Grey:
        y = ((np.arange(rows, dtype=np.float32) + 0.5) / rows * 2 - 1)[:, None] + np.zeros(columns, np.float32)
        x = ((np.arange(columns, dtype=np.float32) + 0.5) / columns * 2 - 1) + np.zeros((rows, 1), np.float32)
        return np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=-1)

    known, wanted = terms(*small.shape).reshape(-1, 6), small.reshape(-1)
    weights = np.ones_like(wanted)
    for _ in range(20):  # Cauchy's weights: what lies far off hardly counts
        root = np.sqrt(weights)[:, None]
        solved = np.linalg.lstsq(known * root, wanted * root[:, 0], rcond=None)[0]
        off = np.abs(wanted - known @ solved)
        weights = 1 / (1 + (off / max(1.5 * float(np.median(off)), 1.0)) ** 2)
    return (terms(height, width) @ solved).astype(np.float32)


def as_mnist(ink: Grey, height: int, width: int) -> tuple[Grey, str]:
    """Levelled ``ink`` as MNIST would have it, height x width, and a word for what was done."""
    strokes = _without_specks(ink)
    if strokes is None:
        return averaged(ink, height, width), "no ink"
    rows, columns = np.nonzero((strokes >= INK).any(1))[0], np.nonzero((strokes >= INK).any(0))[0]
    top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
    longest = max(bottom - top, right - left)
    side = min(height, width)
    if _lies_as_mnist(strokes, longest):
        return averaged(ink, height, width), "resized"
    scale = side * BOX / longest
    if abs(longest - side * BOX) < 0.75:
        scale = 1.0  # as large as it is to be: moved, not drawn anew
    rim = int(np.ceil(1 / scale))  # soft edges, which are no ink yet
    strokes = np.pad(strokes, rim)[top : bottom + 2 * rim, left : right + 2 * rim]
    if scale < 1:
        strokes = _thick_enough(strokes, THIN * side / scale)
    if scale != 1:
        strokes = averaged(strokes, *(max(1, round(length * scale)) for length in strokes.shape))
        strokes = strokes * max(1.0, min(255 / max(float(strokes.max()), 1.0), 3.0))
    return _centred(strokes, height, width), "centred"


def _without_specks(ink: Grey) -> Grey | None:
    """The ink without what is too little to belong to it; None where there is none."""
    from scipy import ndimage  # type: ignore[import-untyped]  # takes long to load

    if ink.max() < INK:
        return None
    labels, count = ndimage.label(ink >= INK, np.ones((3, 3)))
    if count == 1:
        return ink
    mass = np.bincount(labels.reshape(-1), (ink * (labels > 0)).reshape(-1))
    dirt = mass < SPECK * mass.max()
    dirt[0] = False
    if not dirt.any():
        return ink
    rim = ndimage.grey_dilation(np.where(dirt[labels], 255, 0).astype(np.uint8), size=3)
    return np.where((rim > 0) & ((labels == 0) | dirt[labels]), np.float32(0), ink)


def _lies_as_mnist(ink: Grey, longest: int) -> bool:
    height, width = ink.shape
    if abs(height - width) > 0.02 * max(height, width):
        return False
    pixel = 28 / max(height, width)
    y, x = ((place + 0.5) * pixel - 0.5 for place in _centre(ink))
    return abs(longest * pixel - 20) < 1.1 and abs(y - 14) < 0.85 and abs(x - 14) < 0.85


def _centre(ink: Grey) -> tuple[float, float]:
    """The centre of mass: row, column, in pixels from 0."""
    mass = max(float(ink.sum(dtype=np.float64)), 1e-9)
    rows = ink.sum(1, dtype=np.float64) @ np.arange(ink.shape[0])
    columns = ink.sum(0, dtype=np.float64) @ np.arange(ink.shape[1])
    return float(rows / mass), float(columns / mass)


def _thick_enough(ink: Grey, width: float) -> Grey:
    """Strokes thinner than ``width`` pixels made about that wide."""
    from scipy import ndimage

    inked = ink >= INK
    mean = 4 * float(ndimage.distance_transform_edt(inked)[inked].mean()) - 2  # holds for a long band
    more = round(width - mean)
    if more < 1:
        return ink
    return np.asarray(ndimage.grey_dilation(ink, size=more + 1), dtype=np.float32)


def _centred(ink: Grey, height: int, width: int) -> Grey:
    """On an empty ground with the centre of mass at pixel height / 2, width / 2."""
    y, x = _centre(ink)
    canvas = np.zeros((height, width), np.float32)
    top, left = round(height / 2 - y), round(width / 2 - x)
    above, before = max(0, -top), max(0, -left)
    part = ink[above : above + height - max(0, top), before : before + width - max(0, left)]
    canvas[max(0, top) : max(0, top) + part.shape[0], max(0, left) : max(0, left) + part.shape[1]] = part
    return canvas


@dataclass(frozen=True)
class Looked:
    """A picture as the network takes it and, where it is to be shown, as it was; or why it is neither."""

    source: Source
    framed: Framed | None = None
    small: Image.Image | None = None
    error: str | None = None


def look(source: Source, wanted: Wanted, shown: bool) -> Looked:
    """One picture; ``shown``: keep it small, too."""
    if source.error is not None:
        return Looked(source, error=source.error)
    try:
        with opened(source.content, source.name) as picture:
            return Looked(source, bring(picture, wanted), thumbnail(picture) if shown else None)
    except Unreadable as unreadable:
        return Looked(source, error=unreadable.reason)


def in_chunks(sources: Sequence[Source], wanted: Wanted, size: int, shown: int) -> Iterator[list[Looked]]:
    """All of them in order, ``size`` at a time; the first ``shown`` or more are kept small."""
    with ThreadPoolExecutor(max_workers=cores()) as pool:  # Pillow decodes outside the interpreter's lock
        for start in range(0, len(sources), size):
            part = sources[start : start + size]
            wants = [shown > 0] * len(part)
            looked = list(pool.map(look, part, [wanted] * len(part), wants))
            shown -= sum(one.framed is not None for one in looked)
            yield looked
