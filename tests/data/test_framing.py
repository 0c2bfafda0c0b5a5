"""A picture of any size becomes what a network takes, as its data set has it."""

from typing import Any

import numpy as np
import pytest
from helpers import odd_files
from PIL import Image

from smallvision.data.image_files import opened, squeezed
from smallvision.data.preprocess import Framed, Wanted, averaged, bring, kind

MNIST = Wanted(1, 28, 28, "mnist")
CIFAR = Wanted(3, 32, 32, "cifar10")
FASHION = Wanted(1, 28, 28, "fashion_mnist")


def seven() -> np.ndarray[Any, Any]:
    """As MNIST has it: 20 pixels high, the centre of mass at 14, 14, with soft edges."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:6, 8:20] = 250
    for row in range(6, 24):
        column = 20 - (row - 6) // 2
        pixels[row, column - 4 : column] = (120, 250, 250, 130)
    y, x = (np.indices(pixels.shape) * pixels).sum((1, 2)) / pixels.sum()
    return np.roll(pixels, (14 - round(y), 14 - round(x)), (0, 1))


def framed(pixels: np.ndarray[Any, Any] | Image.Image, wanted: Wanted = MNIST) -> Framed:
    return bring(pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels), wanted)


def on(shape: tuple[int, int], top: int, left: int, ground: int = 0) -> np.ndarray[Any, Any]:
    canvas = np.zeros(shape, np.uint8)
    canvas[top : top + 28, left : left + 28] = seven()
    return abs(ground - canvas.astype(int)).astype(np.uint8)


def likeness(pixels: np.ndarray[Any, Any]) -> float:
    """Correlation with ``seven``, at the best of nine places a pixel apart."""
    places = [np.roll(seven(), (y, x), (0, 1)).ravel() for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return max(float(np.corrcoef(pixels.ravel(), place)[0, 1]) for place in places)


@pytest.mark.parametrize("frame", ["auto", "squeeze", "crop", "pad"])
@pytest.mark.parametrize("data", ["mnist", "digits", "fashion_mnist", "shapes", "folder"])
def test_a_picture_of_the_networks_size_is_left_untouched(data: str, frame: str) -> None:
    found = framed(seven(), Wanted(1, 28, 28, data, frame=frame))
    assert (found.pixels == seven()).all()
    assert (found.polarity, found.frame) == ("kept", "untouched")


@pytest.mark.parametrize("data", ["mnist", "digits", "fashion_mnist"])
def test_dark_on_light_is_turned_round_and_said(data: str) -> None:
    found = framed(255 - seven(), Wanted(1, 28, 28, data))
    assert (found.pixels == seven()).all()
    assert (found.polarity, found.frame) == ("inverted", "untouched")


@pytest.mark.parametrize("data", ["shapes", "cifar10", "folder", "other"])
def test_other_data_know_both(data: str) -> None:
    assert framed(255 - seven(), Wanted(1, 28, 28, data)).polarity == "kept"


@pytest.mark.parametrize("size", [28, 56, 91])
@pytest.mark.parametrize("ground", [0, 255])
def test_what_is_typed_goes_before_what_is_found(size: int, ground: int) -> None:
    picture = Image.fromarray(on((28, 28), 0, 0, ground)).resize((size, size), Image.Resampling.NEAREST)
    kept = framed(picture, Wanted(1, 28, 28, "mnist", "keep"))
    turned = framed(picture, Wanted(1, 28, 28, "mnist", "invert"))
    assert (kept.polarity, turned.polarity) == ("kept", "inverted")
    assert (kept.pixels.mean() < turned.pixels.mean()) == (ground == 0)


@pytest.mark.parametrize("times", [2, 3, 10, 20, 50])
@pytest.mark.parametrize("ground", [0, 255])
def test_an_enlarged_digit_comes_back_to_the_bit(times: int, ground: int) -> None:
    large = np.kron(on((28, 28), 0, 0, ground), np.ones((times, times), np.uint8))
    found = framed(large)
    assert (found.pixels == seven()).all()
    assert found.frame == "resized"


@pytest.mark.parametrize(("shape", "top", "left"), [((100, 100), 3, 70), ((200, 300), 172, 0), ((28, 90), 0, 9)])
@pytest.mark.parametrize("ground", [0, 255])
def test_a_digit_somewhere_on_a_large_sheet_is_moved_to_the_bit(shape, top, left, ground) -> None:
    found = framed(on(shape, top, left, ground))
    assert (found.pixels == seven()).all()
    assert found.frame == "centred"


def test_a_digit_of_any_size_and_place_is_brought_to_twenty_pixels_and_its_centre_of_mass() -> None:
    for side in (40, 90, 333):
        picture = Image.fromarray(seven()[2:-2, 2:-2]).resize((side, side), Image.Resampling.BICUBIC)
        sheet = Image.new("L", (900, 700), 0)
        sheet.paste(picture, (500, 20))
        found = framed(Image.eval(sheet, lambda value: 255 - value))
        pixels = found.pixels[0].astype(float)
        rows, columns = np.nonzero(pixels > 64)
        assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - 20) <= 1
        centre = (np.indices(pixels.shape) * pixels).sum((1, 2)) / pixels.sum()
        assert np.abs(centre - 14).max() <= 0.5
        assert likeness(pixels) > 0.9


def test_a_photograph_of_paper_in_bad_light_becomes_light_ink_on_black() -> None:
    rng = np.random.default_rng(0)
    ink = np.asarray(Image.fromarray(seven()).resize((200, 200), Image.Resampling.BICUBIC)) / 255
    sheet = np.zeros((480, 640))
    sheet[200:400, 90:290] = ink
    light = 90 + 140 * np.linspace(0, 1, 640) * np.linspace(1, 0.6, 480)[:, None]
    photo = (light * (1 - 0.7 * sheet) + rng.normal(0, 5, sheet.shape)).clip(0, 255).astype(np.uint8)
    found = framed(photo)
    assert (found.polarity, found.frame) == ("inverted", "centred")
    assert likeness(found.pixels[0]) > 0.9
    assert found.pixels[0, 0].max() == 0


def test_dirt_beside_a_digit_is_left_out() -> None:
    clean = on((200, 200), 80, 90)
    dirty = clean.copy()
    dirty[3, 3] = 255
    dirty[190, 180] = 200
    assert (framed(dirty).pixels == framed(clean).pixels).all()


def test_a_thin_pen_is_made_thick_enough_to_be_seen() -> None:
    sheet = np.full((900, 900), 255, np.uint8)
    sheet[100:800, 450:454] = 0
    found = framed(sheet)
    assert found.pixels.max() > 200
    assert (found.pixels > 64).sum() >= 30


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_empty_picture_has_no_ink(level: int) -> None:
    found = framed(np.full((50, 40), level, np.uint8))
    assert found.frame == "no ink"
    assert found.pixels.max() == 0


def test_clothes_are_padded_with_their_ground() -> None:
    picture = np.full((40, 20), 250, np.uint8)
    picture[5:35, 5:15] = 30
    found = framed(picture, FASHION)
    assert (found.polarity, found.frame) == ("inverted", "padded")
    assert set(np.unique(found.pixels[0, :, :7])) == {5}
    assert found.pixels[0, 14, 14] == 225


def test_a_photograph_is_cropped_to_its_middle() -> None:
    picture = np.zeros((64, 192, 3), np.uint8)
    picture[:, 64:128] = (10, 200, 30)
    found = framed(picture, CIFAR)
    assert (found.polarity, found.frame) == ("kept", "cropped")
    assert (found.pixels == np.array([10, 200, 30])[:, None, None]).all()


def test_a_folders_pictures_are_squeezed_as_they_were_in_training() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (77, 50, 4), dtype=np.uint8))
    wanted = Wanted(3, 24, 24, "folder")
    white = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    expected = np.asarray(squeezed(white, 3, (24, 24))).transpose(2, 0, 1)
    assert (framed(picture, wanted).pixels == expected).all()


@pytest.mark.parametrize(("frame", "word"), [("squeeze", "squeezed"), ("crop", "cropped"), ("pad", "padded")])
def test_each_frame_can_be_forced(frame: str, word: str) -> None:
    found = framed(on((90, 60), 20, 20), Wanted(1, 28, 28, "mnist", frame=frame))
    assert found.frame == word


def test_shrinking_is_a_mean_over_areas_and_keeps_the_total() -> None:
    pixels = np.random.default_rng(0).random((37, 53, 3)).astype(np.float32)
    small = averaged(pixels, 10, 7)
    assert small.shape == (10, 7, 3)
    assert np.allclose(small.mean((0, 1)), pixels.mean((0, 1)), atol=1e-5)
    assert np.allclose(averaged(np.kron(seven(), np.ones((3, 3))), 28, 28), seven(), atol=1e-3)
    assert averaged(np.ones((2, 3)), 9, 9) == pytest.approx(1)


@pytest.mark.parametrize("wanted", [MNIST, CIFAR, FASHION, Wanted(3, 9, 40, "mnist"), Wanted(3, 20, 20, "folder")])
@pytest.mark.parametrize("frame", ["auto", "squeeze", "crop", "pad"])
def test_every_kind_of_picture_fits_every_network(wanted: Wanted, frame: str) -> None:
    for name, content in odd_files.readable().items():
        with opened(content, name) as picture:
            found = bring(picture, Wanted(*list(vars(wanted).values())[:4], frame=frame))
        assert found.pixels.shape == (wanted.channels, wanted.height, wanted.width), name
        assert found.pixels.dtype == np.uint8


def plain(chosen: str, name: str, mean: float) -> dict[str, Any]:
    return {"config": {"data": {"name": chosen}}, "data": {"name": name}, "mean": [mean]}


def test_the_data_set_is_what_was_learnt_not_what_it_stood_in_for_nor_what_a_folder_is_called() -> None:
    assert kind(plain("mnist", "mnist", 0.13)) == "mnist"
    assert kind(plain("mnist", "digits", 0.12)) == "digits"
    assert kind(plain("fashion_mnist", "shapes", 0.4)) == "shapes"
    assert kind(plain("folder", "mnist", 0.1)) == "folder"
    assert kind(plain("arrays", "mnist", 0.87)) == "other"
    assert kind(plain("arrays", "mnist", 0.13)) == "mnist"


def test_clothes_lose_wide_margins_first_as_their_data_set_did() -> None:
    sheet = np.full((300, 400), 255, np.uint8)
    sheet[100:170, 30:100] = np.linspace(200, 40, 70).astype(np.uint8)
    found = framed(sheet, FASHION)
    assert found.pixels[0].min() >= 50  # the garment's own, from side to side
    forced = framed(sheet, Wanted(1, 28, 28, "fashion_mnist", frame="pad"))
    assert (forced.pixels[0, :3] == 0).all()
