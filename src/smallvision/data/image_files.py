"""Image files: which ones the user means, and each decoded as an upright image of 8 bits a channel."""

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

SUFFIXES = {
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
}  # fmt: skip
# The decoders of Pillow that may run. It has others and picks by content: that of EPS starts Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF", "PPM")
MODES = {1: "L", 3: "RGB"}  # Pillow's mode by the number of channels
MAX_PIXELS = 64_000_000  # of one image file, against decompression bombs
LARGE = 4_000_000  # pixels; larger images are decoded one at a time, to bound the memory
THUMBNAIL = 200  # pixels, the longer side
INK_SIDE = 128  # pixels; whether ink is light is decided on an image reduced to about that size
MAX_STDIN_BYTES = 64 * 2**20
MAX_QUOTED = 200  # characters of the user's input repeated in an error
_one_at_a_time = Lock()


class UnreadableImage(UserError):
    """A file that is no image or may not be opened. ``reason``: why, without the file's name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: not a readable image ({reason})")
        self.reason = " ".join(reason.split())


# Decoding ------------------------------------------------------------------------------------------------


@contextmanager
def open_image(source: Path | bytes | Image.Image, name: str) -> Iterator[Image.Image]:
    """The first image of a file, of its bytes or of Pillow's, rotated by its EXIF orientation; use it within the block.

    8 bits a channel in any of Pillow's modes, possibly transparent. ``name`` is for messages. Raises
    UnreadableImage where ``source`` is no image, damaged or too large, and where the block fails: Pillow
    decodes late.
    """
    if isinstance(source, Path) and not os.path.isfile(source):  # noqa: PTH113 - Path's own may raise
        raise UnreadableImage(name, "not a file")  # opening a pipe would block for ever
    try:
        if isinstance(source, Image.Image):
            yield _to_8_bits(ImageOps.exif_transpose(source))
            return
        file = source if isinstance(source, Path) else io.BytesIO(source)
        with Image.open(file, formats=FORMATS) as image:
            pixels = image.width * image.height
            if pixels > MAX_PIXELS:
                raise UnreadableImage(name, f"{image.width} x {image.height} pixels, too large")
            with _one_at_a_time if pixels > LARGE else nullcontext():
                yield _to_8_bits(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except UnidentifiedImageError:
        empty = not (source.stat().st_size if isinstance(source, Path) else source)
        reason = "an empty file" if empty else "no PNG, JPEG, BMP, WebP, GIF, TIFF or PPM"
        raise UnreadableImage(name, reason) from None
    except Image.DecompressionBombError:
        raise UnreadableImage(name, "too large") from None
    except Exception as error:  # damaged files make Pillow raise almost anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise UnreadableImage(name, reason) from None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit grey scaled to 8 bits: Pillow's own conversion would clip everything above 255."""
    if image.mode == "F":
        raise ValueError("floating-point pixels have no agreed range")
    if not image.mode.startswith("I"):
        return image
    grey = np.asarray(image).clip(0, 65_535)
    return Image.fromarray((grey >> 8).astype(np.uint8))


def flatten_alpha(image: Image.Image, background: str | None = "white") -> Image.Image:
    """Composite a transparent image onto ``background``; None: black or white, whichever contrasts with it."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    background = background or ("black" if _is_light(image) else "white")
    return Image.alpha_composite(Image.new("RGBA", image.size, background), image)


def _is_light(image: Image.Image) -> bool:
    """Whether the opaque pixels of an RGBA image are light; soft edges are left out where there is more."""
    small = image.convert("RGBa").reduce(max(1, max(image.size) // INK_SIDE))  # RGBa: colours times opacity
    *colours, opacity = (np.asarray(band, dtype=np.float64) for band in small.split())
    luminance = np.asarray([0.299, 0.587, 0.114]) @ np.stack(colours).reshape(3, -1)
    opaque = np.pad(opacity > 127, 1)
    inner = opaque[1:-1, 1:-1] & opaque[:-2, 1:-1] & opaque[2:, 1:-1] & opaque[1:-1, :-2] & opaque[1:-1, 2:]
    weights = (opacity * inner if inner.any() else opacity).reshape(-1)
    lightness = luminance / np.maximum(opacity.reshape(-1), 1)  # in [0, 1]
    return bool(weights.sum() > 0 and np.average(lightness, weights=weights) > 0.5)


def stretch(image: Image.Image, channels: int, size: tuple[int, int]) -> Image.Image:
    """The entire image at ``size`` (width, height), its aspect ratio ignored."""
    shrinks = image.width > size[0] or image.height > size[1]
    return image.convert(MODES[channels]).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR)


def thumbnail(image: Image.Image) -> Image.Image:
    """In RGB, its longer side at most THUMBNAIL pixels, never enlarged."""
    small = flatten_alpha(image, None).convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    return small


# Finding -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageFile:
    """``content``: a path, the bytes of a file, or an image; ``error``: why it cannot be read, known before trying."""

    name: str
    content: Path | bytes | Image.Image
    error: str | None = None


class FoundImages:
    """The image files that the user named, each once, in the order named; folders and globs sorted."""

    def __init__(self) -> None:
        self._files: dict[str, ImageFile] = {}
        self.skipped = 0  # files in folders whose names are not those of images

    @property
    def files(self) -> list[ImageFile]:
        return list(self._files.values())

    def _add(self, name: str, content: Path | bytes = b"", error: str | None = None) -> None:
        self._files.setdefault(name, ImageFile(name, content, error))

    def add(self, name: str, globs: bool = True) -> None:
        """A file, a folder or, with ``globs``, a glob; a path that exists is that path, whatever it looks like."""
        path = os.path.expanduser(name)  # noqa: PTH111 - Path's own raises for an unknown user
        paths = [path] if os.path.lexists(path) else []
        if globs and not paths:
            paths = sorted(glob.glob(path, recursive=True))
        for match in paths:
            if os.path.isdir(match):  # noqa: PTH112 - Path's own may raise
                self._add_folder(match)
            else:
                self._add(match, Path(match))
        if not paths:
            self._add(name, error="nothing matches" if globs and glob.has_magic(path) else "no such file or folder")

    def _add_folder(self, root: str) -> None:
        """The images in it and in its subfolders by their suffixes, and files without one that are images.

        Hidden files and folders are left out.
        """
        files: list[str] = []
        failed: list[OSError] = []
        for place, folders, names in os.walk(root, onerror=failed.append):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            for file in (Path(place, name) for name in names if not name.startswith(".")):
                if file.suffix.lower() in SUFFIXES or (not file.suffix and _is_image(file)):
                    files.append(str(file))
                else:
                    self.skipped += 1
        errors = {str(error.filename): f"cannot be opened ({error.strerror})" for error in failed}
        for file_name in sorted([*files, *errors]):
            self._add(file_name, Path(file_name), errors.get(file_name))
        if not files and not errors:
            self._add(root, error="a folder without images")

    def add_stdin(self, stdin: BinaryIO) -> None:
        """One image, or the names of files and folders, one a line or separated by NUL.

        Bytes that are not text are taken for an image, which may yet turn out to be none.
        """
        if stdin.isatty():
            raise UserError("images=-: standard input is a terminal; send it an image, or names of files")
        try:
            content = stdin.read(MAX_STDIN_BYTES + 1)
        except OSError as error:
            raise UserError(f"images=-: standard input cannot be read ({error.strerror})") from None
        if len(content) > MAX_STDIN_BYTES:
            raise UserError(f"images=-: more than {MAX_STDIN_BYTES // 2**20} MiB on standard input")
        if not content.strip(b" \t\r\n\0"):
            raise UserError("images=-: nothing on standard input")
        text = re.fullmatch(rb"[^\x01-\x08\x0b\x0c\x0e-\x1f]*", content) is not None
        if not text or _is_image(content):
            self._add("standard input", content)
            return
        for name in filter(None, re.split(r"\0|\r?\n", os.fsdecode(content))):
            self.add(name, globs=False)


def find_images(images: str | list[str], stdin: BinaryIO | None = None) -> FoundImages:
    """The files that ``images=`` names: paths, folders, globs, or - for ``stdin``, without which nothing after it is
    looked for.

    Raises UserError where none of them exists.
    """
    found = FoundImages()
    for pattern in [images] if isinstance(images, str) else images:
        if pattern == "-":
            if stdin is None:
                return found
            found.add_stdin(stdin)
        else:
            found.add(pattern)
    files = found.files
    if all(file.error is not None for file in files):
        raise UserError(none_readable(images, files[0].name, str(files[0].error), len(files)))
    return found


def none_readable(images: str | list[str], name: str, reason: str, count: int) -> str:
    """The error for when none of ``count`` files can be read; ``name`` and ``reason`` are those of the first."""
    typed = images if isinstance(images, str) else f"[{','.join(images)}]"
    typed = typed if len(typed) <= MAX_QUOTED else f"{typed[:MAX_QUOTED]}..."
    named = "" if name == images else f"{name}: "
    others = f"; nor can {count - 1:,} others" if count > 1 else ""
    return f"images={typed}: cannot be read: {named}{reason}{others}"


def _is_image(content: Path | bytes) -> bool:
    if isinstance(content, Path) and not os.path.isfile(content):  # noqa: PTH113 - Path's own may raise
        return False
    try:
        with Image.open(content if isinstance(content, Path) else io.BytesIO(content), formats=FORMATS):
            return True
    except Exception:  # damaged files make Pillow raise almost anything
        return False
