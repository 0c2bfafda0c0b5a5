"""One image file, or the bytes of one, as an upright picture of 8 bits."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from smallvision.errors import Refusal

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
# Pillow's readers of these. It has others, whatever the file is called: that of EPS starts Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # of one image file, against decompression bombs
LARGE = 4_000_000  # pixels; such images are decoded one at a time, for the memory's sake
MODES = {1: "L", 3: "RGB"}  # by channels
THUMBNAIL = 200  # pixels a side
INK_SIDE = 128  # pixels; the ink's lightness is looked at in no finer a picture
_one_at_a_time = Lock()


class Unreadable(Refusal):
    """A file that is no picture, or none that may be opened; ``reason``: why, without the file's name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: not a readable image ({reason})")
        self.reason = " ".join(reason.split())


@contextmanager
def opened(source: Path | bytes, name: str) -> Iterator[Image.Image]:
    """The first picture of ``source``, turned as the camera's note says; work on it within the block.

    8 bits a channel, in any of Pillow's modes for that, perhaps with transparency. Raises Unreadable where
    it is no file, no picture, damaged or too large, or the block fails.
    """
    if isinstance(source, Path) and not os.path.isfile(source):  # noqa: PTH113 - Path's own may raise
        raise Unreadable(name, "not a file")  # to open a pipe waits for ever
    try:
        file = source if isinstance(source, Path) else io.BytesIO(source)
        with Image.open(file, formats=FORMATS) as picture:
            pixels = picture.width * picture.height
            if pixels > MAX_PIXELS:
                raise Unreadable(name, f"{picture.width} x {picture.height} pixels, too large")
            with _one_at_a_time if pixels > LARGE else nullcontext():
                yield _eight_bits(ImageOps.exif_transpose(picture))
    except Refusal:
        raise
    except UnidentifiedImageError:
        empty = isinstance(source, Path) and not source.stat().st_size
        kinds = "an empty file" if empty or source == b"" else "no PNG, JPEG, BMP, WebP, GIF, TIFF or PPM"
        raise Unreadable(name, kinds) from None
    except Image.DecompressionBombError:
        raise Unreadable(name, "too large") from None
    except Exception as error:  # damage can surface as any kind
        said = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise Unreadable(name, said) from None


def opaque(picture: Image.Image, ground: str | None = "white") -> Image.Image:
    """The same without transparency: on that ``ground``, or on black or white, as the ink stands out."""
    if not picture.has_transparency_data:
        return picture
    picture = picture.convert("RGBA")
    ground = ground or ("black" if _ink_is_light(picture) else "white")
    return Image.alpha_composite(Image.new("RGBA", picture.size, ground), picture)


def squeezed(picture: Image.Image, channels: int, size: tuple[int, int]) -> Image.Image:
    """All of it, brought to ``size`` (width, height) without regard to its proportions."""
    shrinks = picture.width > size[0] or picture.height > size[1]
    return picture.convert(MODES[channels]).resize(
        size, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    )


def thumbnail(picture: Image.Image) -> Image.Image:
    """In colour, at most THUMBNAIL pixels a side, and never larger than it is."""
    step = max(1, max(picture.size) // (2 * THUMBNAIL))
    small = opaque(picture, None).convert("RGB").reduce(step)
    if max(small.size) > THUMBNAIL:
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return small


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey brought to 8 bits: Pillow's own conversion would cut off all above 255."""
    if picture.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if not picture.mode.startswith("I"):
        return picture
    grey = np.asarray(picture).clip(0, 65_535)
    return Image.fromarray((grey >> 8).astype(np.uint8))


def _ink_is_light(picture: Image.Image) -> bool:
    """Whether the opaque pixels of an RGBA ``picture`` are light, away from their soft edges."""
    small = picture.convert("RGBa").reduce(max(1, max(picture.size) // INK_SIDE))  # colours times opacity
    *colours, opacity = (np.asarray(band, dtype=np.float64) for band in small.split())
    light = np.asarray([0.299, 0.587, 0.114]) @ np.stack(colours).reshape(3, -1)
    inked = np.pad(opacity > 127, 1)
    inner = inked[1:-1, 1:-1] & inked[:-2, 1:-1] & inked[2:, 1:-1] & inked[1:-1, :-2] & inked[1:-1, 2:]
    weights = (opacity * inner if inner.any() else opacity).reshape(-1)
    shades = light / np.maximum(opacity.reshape(-1), 1)  # from 0 to 1
    return bool(weights.sum() > 0 and np.average(shades, weights=weights) > 0.5)
