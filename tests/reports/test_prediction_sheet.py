"""The sheet of images and their predictions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smallvision.reports.predictions import CORRECT, WRONG, Prediction, Tile, draw_sheet


def tile(name: str = "it.png", actual: str | None = None, size: int = 28, channels: int = 1, saliency: bool = False):
    prediction = Prediction(name, [("seven", 0.91), ("one", 0.05)], actual, "inverted", "centered")
    seen = np.full((channels, size, size), 200, np.uint8)
    thumbnail = Image.new("RGB", (50, 30), (10, 20, 30))
    return Tile(prediction, thumbnail, seen, np.linspace(0, 1, size * size).reshape(size, size) if saliency else None)


def colours(file: Path) -> set[tuple[int, ...]]:
    with Image.open(file) as image:
        return {colour for _, colour in image.convert("RGB").getcolors(2**24)}


def rgb(hexadecimal: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(hexadecimal[1:]))


@pytest.mark.parametrize("count", [1, 7, 61, 1000])
def test_a_sheet_of_any_number_of_images_can_be_opened(tmp_path: Path, count: int) -> None:
    file = tmp_path / "sheet.png"
    draw_sheet([tile()] * count, file, "a title")
    with Image.open(file) as image:
        assert image.width * image.height < 64_000_000
        assert 0.2 < image.width / image.height < 5


@pytest.mark.parametrize(("size", "channels"), [(1, 1), (8, 3), (28, 1), (96, 3), (300, 1)])
def test_inputs_of_every_size_are_shown(tmp_path: Path, size: int, channels: int) -> None:
    draw_sheet([tile(size=size, channels=channels, saliency=True)], tmp_path / "sheet.png", "a title")
    assert {(200, 200, 200), (10, 20, 30)} <= colours(tmp_path / "sheet.png")


def test_correct_and_wrong_have_colours_and_the_unknown_has_neither(tmp_path: Path) -> None:
    for actual, shown in (("seven", CORRECT), ("one", WRONG), (None, None)):
        draw_sheet([tile(actual=actual)], tmp_path / "sheet.png", "a title")
        found = colours(tmp_path / "sheet.png")
        assert {colour for colour in (CORRECT, WRONG) if rgb(colour) in found} == ({shown} - {None})


def test_the_same_tiles_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_sheet([tile(saliency=True)] * 3, tmp_path / name, "a title", "a warning")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_names_of_any_letters_and_length_fit(tmp_path: Path) -> None:
    for name in ("x" * 5000, "\N{GRINNING FACE}\n\x1b[31m", "\udcff", "", "数字.png"):
        draw_sheet([tile(name, actual=name)], tmp_path / "sheet.png", name or "-", name)


def test_a_class_of_one_letter_is_written_too(tmp_path: Path) -> None:
    for name in ("7", "1"):
        one = Tile(Prediction("it.png", [(name, 0.9)]), Image.new("RGB", (9, 9)), np.zeros((1, 28, 28), np.uint8))
        draw_sheet([one], tmp_path / f"{name}.png", "a title")
    assert (tmp_path / "7.png").read_bytes() != (tmp_path / "1.png").read_bytes()


@pytest.mark.parametrize("size", [(1, 1), (3000, 1), (1, 3000)])
def test_images_of_any_shape_are_shown_whole(tmp_path: Path, size: tuple[int, int]) -> None:
    one = Tile(Prediction("it.png", [("7", 0.9)]), Image.new("RGB", size, (10, 20, 30)), np.zeros((1, 9, 9), np.uint8))
    draw_sheet([one], tmp_path / "sheet.png", "a title")
    assert (10, 20, 30) in colours(tmp_path / "sheet.png")
