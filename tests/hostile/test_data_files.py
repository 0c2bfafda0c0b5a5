"""Hostile data: data=arrays and data=folder refuse each file in one line, and nothing in it is run."""

import os
import pickle
import struct
import zipfile
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.hostile import (
    Calls,
    Content,
    Ground,
    Write,
    check_harmless,
    check_refused,
    npy,
    parts_of,
    pickle_file,
    zip_of,
)  # fmt: skip
from PIL import Image

FIT = ["model=fashion_mnist", "trainer.max_epochs=1", "report=false", "hydra.run.dir=fitted"]
IMAGES = np.zeros((40, 8, 8), np.uint8)
LABELS = np.arange(40) % 4


# npz files ------------------------------------------------------------------------------------------------


def objects(ground: Ground) -> Any:
    return np.array([Calls(os.system, ground.touch("npz"))], dtype=object)


def arrays(**changed: Content) -> Write:
    """An honest npz file but for these arrays."""

    def write(ground: Ground, file: Path) -> None:
        honest = {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES, "y_test": LABELS}
        hostile = {key: value(ground) if callable(value) else value for key, value in changed.items()}
        with file.open("wb") as stream:
            np.savez(stream, **{**honest, **hostile})

    return write


def part(name: str, content: Content, method: int = zipfile.ZIP_STORED, claim: int | None = None) -> Write:
    """An honest npz file but for one part of the archive, which claims to hold that many bytes."""

    def write(ground: Ground, file: Path) -> None:
        arrays()(ground, file)
        raw = bytearray(zip_of({**parts_of(file), name: content(ground) if callable(content) else content}, method))
        if claim is not None:
            at = raw.rindex(b"PK\1\2", 0, raw.rindex(name.encode()))
            raw[at + 24 : at + 28] = struct.pack("<I", claim)
        file.write_bytes(raw)

    return write


def header(shape: str) -> bytes:
    return npy(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}")


def write_npy(ground: Ground, file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, objects(ground))


ARCHIVES: dict[str, Write] = {
    **{f"objects in {key}": arrays(**{key: objects}) for key in ("x_train", "y_train", "x_test", "y_test", "classes")},
    "a .npy of objects": write_npy,
    "a pickle": lambda ground, file: file.write_bytes(pickle_file(ground).read_bytes()),
    "a pickle for an array": part("x_train.npy", lambda ground: pickle_file(ground).read_bytes()),
    "10**12 images": part("x_train.npy", header("(1000000000000, 8, 8)")),
    "a negative shape": part("x_train.npy", header("(-1, 8, 8)")),
    "a header that calls": part("x_train.npy", lambda ground: npy(
        f"{{'descr': __import__('os').system('{ground.touch('npy')}'), 'shape': (1,)}}")),
    "a header of 65,000 brackets": part("x_train.npy", npy("[" * 65_000)),
    "100 bytes that claim to be 4 GB": part("x_test.npy", npy("{"), claim=2**32 - 2),
    "1 GB of zeros in 700 bytes": part("x_train.npy", bytes(50_000_000), zipfile.ZIP_BZIP2, claim=12 * 10**8),
    "100 MB that claim to be 100 bytes": part(
        "x_train.npy", header("(100000000, 1, 1)") + bytes(100_000_000), zipfile.ZIP_DEFLATED, claim=100),
    "a label of 10**12": arrays(y_train=np.where(LABELS == 3, 10**12, LABELS)),
    "negative labels": arrays(y_train=LABELS - 9),
}  # fmt: skip
HARMLESS_ARCHIVES: dict[str, Write] = {
    "a part out of the folder": part("../../marks/x_train.npy", b"x"),
    "class names that are terminal commands": arrays(classes=np.array(["\x1b[2J\x1b]0;gone\a", "b", "c", "d"])),
}


def fit_arrays(ground: Ground, write: Write, file: Path) -> list[str]:
    write(ground, file)
    return [*FIT, "data=arrays", f"data.path={file}", "data.val_size=4"]


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_hostile_npz_file_is_refused(ground: Ground, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "hostile.npz"
    check_refused(ground, tmp_path, fit_arrays(ground, ARCHIVES[kind], file), f"{file}")


@pytest.mark.parametrize("kind", HARMLESS_ARCHIVES)
def test_what_an_npz_file_names_oddly_does_no_harm(ground: Ground, tmp_path: Path, kind: str) -> None:
    check_harmless(ground, tmp_path, fit_arrays(ground, HARMLESS_ARCHIVES[kind], tmp_path / "hostile.npz"))


# Image files ----------------------------------------------------------------------------------------------


def png(width: int, height: int, *more: tuple[bytes, bytes], bits: int = 1, rows: int | None = None) -> bytes:
    """A black PNG of that size, with chunks of one's own."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width * bits + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(height if rows is None else rows)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    parts = [(b"IHDR", head), *more, (b"IDAT", packed), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def tiff(width: int, height: int) -> bytes:
    """A TIFF that claims that size, with one byte of pixels."""
    tags = {256: width, 257: height, 258: 1, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 1}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def gif(width: int, height: int) -> bytes:
    """A GIF that claims that size, with 4 x 4 pixels."""
    file = BytesIO()
    Image.new("RGB", (4, 4)).save(file, "GIF")
    raw = bytearray(file.getvalue())
    raw[6:10] = struct.pack("<HH", width, height)
    return bytes(raw)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 99, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n%%EOF\n"
# By kind: the file's ending and its bytes.
IMAGE_FILES: dict[str, tuple[str, Content]] = {
    "60,000 x 60,000 pixels": ("png", lambda _: png(60_000, 60_000, rows=600)),
    "12,000 x 12,000 pixels": ("png", lambda _: png(12_000, 12_000)),
    "a GIF of 65,535 x 65,535": ("gif", gif(65_535, 65_535)),
    "a TIFF of 60,000 x 60,000": ("tif", tiff(60_000, 60_000)),
    "a BMP of 60,000 x 60,000": ("bmp", bmp(60_000, 60_000)),
    "a PPM of 60,000 x 60,000": ("ppm", b"P6 60000 60000 255\n"),
    "a WebP of 16,384 x 16,384": ("webp", b"RIFF\x20\0\0\0WEBPVP8L\x0a\0\0\0\x2f\xff\xff\xff\x0f" + bytes(9)),
    "text of 300 MB in a PNG": (
        "png", lambda _: png(4, 4, (b"zTXt", b"a\0\0" + zlib.compress(bytes(300_000_000), 1)))),
    "a profile of 300 MB in a PNG": (
        "png", lambda _: png(4, 4, (b"iCCP", b"a\0\0" + zlib.compress(bytes(300_000_000), 1)))),
    "PostScript": ("png", POSTSCRIPT),
    "PostScript called a JPEG": ("jpg", POSTSCRIPT),
    "a pickle": ("png", lambda ground: pickle_file(ground).read_bytes()),
    "Python": ("png", lambda ground: f"import os; os.system('{ground.touch('python')}')".encode()),
    "an SVG": ("png", b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'),
    "an icon": ("png", b"\0\0\1\0\1\0" + bytes(40)),
    "an image without pixels": ("png", png(0, 0)),
}  # fmt: skip


@pytest.fixture
def honest_images(tmp_path: Path) -> Path:
    """Two classes with four images each."""
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for level in range(4):
            Image.new("RGB", (8, 8), (level, 0, 0)).save(tmp_path / "images" / name / f"{level}.png")
    return tmp_path / "images"


def fit_folder(folder: Path) -> list[str]:
    return [*FIT, "data=folder", f"data.path={folder}", "data.val_size=1", "data.size=8"]


@pytest.mark.parametrize("kind", IMAGE_FILES)
def test_a_hostile_image_file_is_refused(ground: Ground, honest_images: Path, kind: str) -> None:
    ending, content = IMAGE_FILES[kind]
    file = honest_images / f"a/hostile.{ending}"
    file.write_bytes(content(ground) if callable(content) else content)
    check_refused(ground, honest_images.parent, fit_folder(honest_images), f"{file}: ")


def test_a_pipe_for_an_image_is_not_read(ground: Ground, honest_images: Path) -> None:
    os.mkfifo(file := honest_images / "a/hostile.png")
    check_refused(ground, honest_images.parent, fit_folder(honest_images), f"{file}: ")


def test_of_an_image_and_a_zip_archive_in_one_only_the_image_is_read(ground: Ground, honest_images: Path) -> None:
    (honest_images / "a/hostile.png").write_bytes(png(9, 9) + zip_of({"data.pkl": pickle.dumps(1)}))
    check_harmless(ground, honest_images.parent, fit_folder(honest_images))
