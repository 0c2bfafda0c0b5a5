"""One image file, or the bytes of one, as an upright picture of 8 bits."""

import os
from pathlib import Path

import numpy as np
import pytest
from helpers import odd_files
from PIL import Image

from smallvision.data import image_files as pictures
from smallvision.data.image_files import Unreadable, opaque, opened, squeezed, thumbnail


@pytest.mark.parametrize("name", odd_files.readable())
def test_every_kind_of_picture_opens_as_eight_bits(name: str) -> None:
    with opened(odd_files.readable()[name], name) as picture:
        assert np.asarray(picture.convert("RGB")).dtype == np.uint8
        assert picture.width * picture.height > 0
        assert max(thumbnail(picture).size) <= pictures.THUMBNAIL


@pytest.mark.parametrize("name", odd_files.unreadable())
def test_what_is_no_picture_is_named_with_its_reason(name: str) -> None:
    with pytest.raises(Unreadable) as raised, opened(odd_files.unreadable()[name], name) as picture:
        picture.convert("RGB")
    assert str(raised.value) == f"{name}: not a readable image ({raised.value.reason})"
    assert raised.value.reason
    assert "BytesIO" not in raised.value.reason


def test_a_pipe_a_device_and_a_folder_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / ("long" * 999)):
        with pytest.raises(Unreadable, match="not a file"), opened(place, "it"):
            pass


def test_what_fails_within_the_block_is_the_pictures_fault() -> None:
    with (
        pytest.raises(Unreadable, match="it: not a readable image"),
        opened(odd_files.unreadable()["cut.png"], "it") as picture,
    ):
        picture.load()


def test_the_first_of_several_pictures_is_taken() -> None:
    for name in ("animated.gif", "animated.png", "animated.webp", "pages.tif"):
        with opened(odd_files.readable()[name], name) as picture:
            found = np.asarray(picture.convert("L")).astype(int)
        assert np.abs(found - np.asarray(odd_files.digit())).max() <= 12, name


def test_all_eight_turns_of_a_camera_come_out_upright(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :8] = 255  # light in the upper left corner
    T = Image.Transpose  # noqa: N806
    back = {
        2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90,
        7: T.TRANSVERSE, 8: T.ROTATE_270,
    }  # fmt: skip
    for number in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = number
        stored = Image.fromarray(pixels)
        if number in back:
            stored = stored.transpose(back[number])
        stored.save(tmp_path / "it.png", exif=exif)
        with opened(tmp_path / "it.png", "it") as picture:
            assert (np.asarray(picture) == pixels).all(), number


def see_through(colour: int, alpha: np.ndarray) -> Image.Image:
    grey = np.full_like(alpha, colour)
    return Image.fromarray(np.stack([grey, grey, grey, alpha], -1))


def test_ink_on_nothing_is_laid_where_it_can_be_seen() -> None:
    alpha = np.asarray(odd_files.digit(40))
    light, dark = see_through(255, alpha), see_through(0, alpha)
    assert (np.asarray(opaque(light, None).convert("L")) == alpha).all()
    assert (np.asarray(opaque(dark, None).convert("L")) == 255 - alpha).all()
    assert (np.asarray(opaque(light).convert("L")) == 255).all()  # white, unless told otherwise


def test_soft_edges_do_not_tell_the_ink() -> None:
    """A light stroke that fades to dark before nothing begins is a light stroke."""
    stroke = np.zeros((20, 20), np.uint8)
    stroke[4:16, 7:13], stroke[5:15, 9:11] = 60, 255
    clear = see_through(0, np.where(stroke, 255, 0).astype(np.uint8))
    pixels = np.asarray(clear).copy()
    pixels[..., :3] = stroke[..., None]
    assert (np.asarray(opaque(Image.fromarray(pixels), None).convert("L")) == stroke).all()


def test_nothing_at_all_is_white() -> None:
    assert np.asarray(opaque(Image.new("RGBA", (5, 5), (0, 0, 0, 0)), None).convert("L")).min() == 255


def test_squeezing_to_its_own_size_changes_nothing() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    assert (np.asarray(squeezed(picture, 3, (7, 9))) == np.asarray(picture)).all()
