"""One image file, or the bytes of one, as an upright picture of 8 bits."""

import glob
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from smallvision.core.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
# Pillow's readers of these. It has others, whatever the file is called: that of EPS starts Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 64_000_000  # of one image file, against decompression bombs
LARGE = 4_000_000  # pixels; such images are decoded one at a time, for the memory's sake
MODES = {1: "L", 3: "RGB"}  # by channels
THUMBNAIL = 200  # pixels a side
INK_SIDE = 128  # pixels; the ink's lightness is looked at in no finer a picture
_one_at_a_time = Lock()


class Unreadable(UserError):
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
    except UserError:
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
    return picture.convert(MODES[channels]).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)


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


ALL_SUFFIXES = SUFFIXES | {".jfif", ".jpe", ".apng", ".pbm", ".pnm"}
MOST_BYTES = 64 * 2**20  # of standard input
MOST_LETTERS = 200  # of what was typed, where it is said again


@dataclass(frozen=True)
class Source:
    """``content``: a file, or the bytes of one that came in; ``error``: why it can be neither."""

    name: str
    content: Path | bytes
    error: str | None = None


@dataclass(frozen=True)
class Gathered:
    """``passed_over``: files in folders that are no pictures by their names."""

    sources: list[Source]
    passed_over: int = 0


def gather(images: str | list[str], stdin: BinaryIO) -> Gathered:
    """Every picture that ``images`` names, each file once, folders and globs in order of their names.

    Raises UserError where there is nothing of all that.
    """
    found: dict[str, Source] = {}
    passed_over = 0
    for word in [images] if isinstance(images, str) else images:
        for one in _standard_input(stdin) if word == "-" else _expanded(word):
            if isinstance(one, Source):
                found.setdefault(one.name, one)
                continue
            here = _of_folder(one) if os.path.isdir(one) else Gathered([Source(one, Path(one))])  # noqa: PTH112
            passed_over += here.passed_over
            for source in here.sources:
                found.setdefault(source.name, source)
    sources = list(found.values())
    if all(source.error is not None for source in sources):
        raise UserError(none_read(images, sources[0].name, str(sources[0].error), len(sources)))
    return Gathered(sources, passed_over)


def none_read(images: str | list[str], name: str, reason: str, count: int) -> str:
    """One line for when none of ``count`` can be read; ``name`` and ``reason``: the first one's."""
    typed = images if isinstance(images, str) else f"[{','.join(images)}]"
    typed = typed if len(typed) <= MOST_LETTERS else f"{typed[:MOST_LETTERS]}..."
    named = "" if name == images else f"{name}: "
    others = f"; nor can {count - 1:,} others" if count > 1 else ""
    return f"images={typed}: cannot be read: {named}{reason}{others}"


def _expanded(word: str) -> list[str | Source]:
    """The paths that there are by that name or pattern."""
    place = os.path.expanduser(word)  # noqa: PTH111 - Path's own raises for an unknown user
    if os.path.lexists(place):
        return [place]
    matches: list[str | Source] = []
    if glob.has_magic(place):
        matches += sorted(glob.glob(place, recursive=True))
    missing = "nothing matches" if glob.has_magic(place) else "no such file or folder"
    return matches or [Source(word, b"", missing)]


def _of_folder(root: str) -> Gathered:
    """Its pictures by their names, and those of its subfolders; nothing that is hidden.

    A file without a suffix counts where it opens as a picture does.
    """
    sources, passed_over = [], 0
    failed: list[OSError] = []
    for place, folders, files in os.walk(root, onerror=failed.append):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for name in files:
            file = Path(place, name)
            if name.startswith("."):
                continue
            if file.suffix.lower() in ALL_SUFFIXES or (not file.suffix and _opens_as_picture(file)):
                sources.append(Source(str(file), file))
            else:
                passed_over += 1
    sources += [Source(str(e.filename), b"", f"cannot be opened ({e.strerror})") for e in failed]
    if not sources:
        sources = [Source(root, b"", "a folder without pictures")]
    return Gathered(sorted(sources, key=lambda source: source.name), passed_over)


def _opens_as_picture(content: Path | bytes) -> bool:
    if isinstance(content, Path) and not os.path.isfile(content):  # noqa: PTH113 - Path's own may raise
        return False
    try:
        with Image.open(content if isinstance(content, Path) else io.BytesIO(content), formats=FORMATS):
            return True
    except Exception:  # damage can surface as any kind
        return False


def _standard_input(stdin: BinaryIO) -> list[str | Source]:
    """The picture that comes in, or the files and folders that its lines (or NULs between them) name.

    What is no text is taken for a picture, which may yet turn out to be none.
    """
    if stdin.isatty():
        raise UserError("images=-: standard input is a terminal; send it a picture, or names of files")
    try:
        content = stdin.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"images=-: standard input cannot be read ({error.strerror})") from None
    if len(content) > MOST_BYTES:
        raise UserError(f"images=-: more than {MOST_BYTES // 2**20} MiB on standard input")
    if not content.strip():
        raise UserError("images=-: nothing on standard input")
    text = re.fullmatch(rb"[^\x01-\x08\x0b\x0c\x0e-\x1f]*", content) is not None
    if not text or _opens_as_picture(content):
        return [Source("standard input", content)]
    names = [name for name in re.split(r"\0|\r?\n", os.fsdecode(content)) if name]
    named = [os.path.expanduser(name) for name in names]  # noqa: PTH111 - Path's own may raise
    return [
        path if os.path.lexists(path) else Source(name, b"", "no such file or folder")
        for name, path in zip(names, named, strict=True)
    ]
