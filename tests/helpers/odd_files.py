"""Image files of every kind, and files that are no images, as people and programs leave them."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin


def digit(size: int = 28) -> Image.Image:
    """A light stroke on dark."""
    pixels = np.zeros((size, size), np.uint8)
    pixels[size // 5 : -size // 5, size // 2 - size // 14 : size // 2 + size // 14 + 1] = 240
    return Image.fromarray(pixels)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png_claiming(width: int, height: int, pixels: int = 1000) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(pixels))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", rows) + _chunk(b"IEND", b"")


def _interlaced(pixels: np.ndarray[Any, Any]) -> bytes:
    """A grey PNG in Adam7, which Pillow reads and does not write."""
    passes = [
        (0, 0, 8, 8),
        (0, 4, 8, 8),
        (4, 0, 8, 4),
        (0, 2, 4, 4),
        (2, 0, 4, 2),
        (0, 1, 2, 2),
        (1, 0, 2, 1),
    ]
    parts = [pixels[y::high, x::wide] for y, x, high, wide in passes]
    rows = b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)
    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 1)
    return (
        b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows))
        + _chunk(b"IEND", b"")
    )  # fmt: skip


def _saved(image: Image.Image, kind: str, **choices: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **choices)
    return file.getvalue()


def readable() -> dict[str, bytes]:
    """Contents by name: files that any viewer shows."""
    grey, colour = digit(), digit(40).convert("RGB")
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    see_through = grey.convert("P")
    frames = [digit(size).resize((28, 28)) for size in (28, 30, 32)]
    deep = np.asarray(grey).astype(np.uint16) * 257
    orientation = Image.Exif()
    text = "\n".join(" ".join(str(int(value > 99)) for value in row) for row in np.asarray(grey))
    levels = "\n".join(" ".join(map(str, row)) for row in np.asarray(grey))
    files = {
        "1x1.png": _saved(Image.new("L", (1, 1), 7), "PNG"),
        "1x300.png": _saved(Image.new("L", (1, 300), 200), "PNG"),
        "5000x2.png": _saved(Image.linear_gradient("L").resize((5000, 2)), "PNG"),
        "palette-transparent.png": _saved(see_through, "PNG", transparency=0),
        "palette-alphas.png": _saved(see_through, "PNG", transparency=bytes(range(256))),
        "grey-alpha.png": _saved(digit(50).convert("LA"), "PNG"),
        "rgba.png": _saved(colour.convert("RGBA"), "PNG"),
        "all-clear.png": _saved(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "PNG"),
        "16-bit.png": _saved(Image.fromarray(deep), "PNG"),
        "16-bit-little.tif": _saved(Image.fromarray(deep.astype("<u2")), "TIFF"),
        "16-bit-big.tif": _saved(Image.fromarray(deep.astype(">u2")), "TIFF"),
        "32-bit.tif": _saved(Image.fromarray(deep.astype(np.int32)), "TIFF"),
        "cmyk.jpg": _saved(colour.convert("CMYK"), "JPEG"),
        "cmyk.tif": _saved(colour.convert("CMYK"), "TIFF"),
        "ycbcr.tif": _saved(colour.convert("YCbCr"), "TIFF"),
        "444.jpg": _saved(noisy, "JPEG", subsampling=0),
        "grey.jpeg": _saved(grey, "JPEG", quality=30),
        "progressive.jpg": _saved(noisy, "JPEG", progressive=True),
        "1-bit.png": _saved(grey.convert("1"), "PNG"),
        "1-bit-fax.tif": _saved(grey.convert("1"), "TIFF", compression="group4"),
        "lzw.tif": _saved(noisy, "TIFF", compression="tiff_lzw"),
        "pages.tif": _saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]),
        "animated.gif": _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": _saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "animated.png": _saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        "lossless.webp": _saved(colour.convert("RGBA"), "WEBP", lossless=True),
        "1-bit.bmp": _saved(grey.convert("1"), "BMP"),
        "palette.bmp": _saved(grey.convert("P"), "BMP"),
        "24-bit.bmp": _saved(colour, "BMP"),
        "32-bit.bmp": _saved(colour.convert("RGBA"), "BMP"),
        "interlaced.png": _interlaced(np.asarray(grey)),
        "broken-profile.png": _saved(grey, "PNG", icc_profile=b"\xff" * 99),
        "broken-profile.jpg": _saved(colour, "JPEG", icc_profile=b"no profile at all"),
        "broken-exif.jpg": _saved(colour, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage"),
        "p1.pbm": f"P1\n28 28\n{text}\n".encode(),
        "p2.pgm": f"P2\n# a remark\n28 28 255\n{levels}\n".encode(),
        "p3.ppm": b"P3 2 1 255  255 0 0  0 0 255\n",
        "p4.pbm": _saved(grey.convert("1"), "PPM"),
        "p5.pgm": _saved(grey, "PPM"),
        "p6.ppm": _saved(colour, "PPM"),
        "p5-16-bit.pgm": b"P5 28 28 65535\n" + deep.astype(">u2").tobytes(),
        "trailing.png": _saved(grey, "PNG") + b"and then a letter to my aunt" * 9,
        "trailing.jpg": _saved(colour, "JPEG") + bytes(5000),
        "no-suffix": _saved(grey, "PNG"),
        "UPPER.PNG": _saved(grey, "PNG"),
        "wrong-suffix.jpg": _saved(grey, "PNG"),
        "mpo.jpg": _saved(colour, "MPO", save_all=True, append_images=[colour]),
        "much-text.png": _saved(grey, "PNG", pnginfo=_much_text()),
        "white.png": _saved(Image.new("L", (60, 60), 255), "PNG"),
        "two\nlines\x1b[31m\t.png": _saved(grey, "PNG"),
        'it\'s "quoted" & 100%.png': _saved(grey, "PNG"),
        "\N{GRINNING FACE} ünïcødé 数字.png": _saved(grey, "PNG"),
        "=1+1,comma.png": _saved(grey, "PNG"),
        "-.png": _saved(grey, "PNG"),
        f"{'long' * 60}.png": _saved(grey, "PNG"),
    }
    for number in range(1, 9):
        orientation[0x0112] = number
        files[f"rotated-{number}.jpg"] = _saved(colour, "JPEG", exif=orientation)
    return files


def _much_text() -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "many " * 999, zip=True)
    return info


def unreadable() -> dict[str, bytes]:
    """Contents by name: files that must be listed with a reason."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))
    png, jpeg = _saved(noise, "PNG"), _saved(noise, "JPEG")
    broken = bytearray(png)
    broken[len(png) // 2] ^= 255
    return {
        "empty.png": b"",
        "cut.png": png[: len(png) // 2],
        "cut-in-header.png": png[:20],
        "cut.jpg": jpeg[: len(jpeg) // 2],
        "cut.bmp": _saved(noise, "BMP")[:600],
        "cut.gif": _saved(noise, "GIF")[:100],
        "cut.webp": _saved(noise, "WEBP")[:100],
        "cut.tif": _saved(noise, "TIFF")[:100],
        "cut.ppm": _saved(noise, "PPM")[:100],
        "flipped-bit.png": bytes(broken),
        "text.png": b"This is text.\n",
        "page.png": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        "zeros.png": bytes(1000),
        "vector.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "paper.png": b"%PDF-1.4\n1 0 obj <<>> endobj\n",
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) print\n%%EOF\n",
        "bomb.png": _png_claiming(60_000, 60_000),
        "large.png": _png_claiming(9_000, 9_000),
        "no-size.png": _png_claiming(0, 0),
        "no-pixels.png": _png_claiming(28, 28, 0),
        "float.tif": _saved(Image.fromarray(np.ones((9, 9), np.float32)), "TIFF"),
        "huge.ppm": b"P6 4000000000 4000000000 255\n",
        "pickle.png": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        "zip.png": b"PK\x03\x04" + bytes(60),
    }


def make(folder: Path) -> tuple[set[str], set[str]]:
    """Write all of them to ``folder``, with links, a pipe and a device; gives the names of the good and of the bad."""
    folder.mkdir(parents=True)
    good, bad = readable(), unreadable()
    for name, content in {**good, **bad}.items():
        (folder / name).write_bytes(content)
    (folder / "folder.png").mkdir()
    (folder / "broken-link.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "link.png").symlink_to("1-bit.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    return {*good, "link.png"}, {
        *bad, "folder.png", "broken-link.png", "loop.png", "pipe.png", "device.png"
    }  # fmt: skip
