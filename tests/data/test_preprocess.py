"""An image of any size becomes what a network takes, as its training data had it."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import odd_files
from PIL import Image

from smallvision.data.image_files import open_image, stretch
from smallvision.data.preprocess import InputSpec, Preprocessed, area_resize, dataset_kind, preprocess

MNIST = InputSpec(1, 28, 28, "mnist")
CIFAR = InputSpec(3, 32, 32, "cifar10")
FASHION = InputSpec(1, 28, 28, "fashion_mnist")


def seven() -> np.ndarray[Any, Any]:
    """As MNIST has it: 20 pixels high, the center of mass at 14, 14, with soft edges."""
    pixels = np.zeros((28, 28), np.uint8)
    pixels[4:6, 8:20] = 250
    for row in range(6, 24):
        column = 20 - (row - 6) // 2
        pixels[row, column - 4 : column] = (120, 250, 250, 130)
    y, x = (np.indices(pixels.shape) * pixels).sum((1, 2)) / pixels.sum()
    return np.roll(pixels, (14 - round(y), 14 - round(x)), (0, 1))


def run(image: np.ndarray[Any, Any] | Image.Image, spec: InputSpec = MNIST) -> Preprocessed:
    return preprocess(image if isinstance(image, Image.Image) else Image.fromarray(image), spec)


def sheet(shape: tuple[int, int], top: int, left: int, background: int = 0) -> np.ndarray[Any, Any]:
    """A seven of MNIST's size on a sheet."""
    canvas = np.zeros(shape, np.uint8)
    canvas[top : top + 28, left : left + 28] = seven()
    return abs(background - canvas.astype(int)).astype(np.uint8)


def likeness(pixels: np.ndarray[Any, Any]) -> float:
    """Correlation with ``seven``, the best of nine positions a pixel apart."""
    shifted = [np.roll(seven(), (y, x), (0, 1)).ravel() for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return max(float(np.corrcoef(pixels.ravel(), one)[0, 1]) for one in shifted)


@pytest.mark.parametrize("resize", ["auto", "stretch", "center_crop", "pad"])
@pytest.mark.parametrize("dataset", ["mnist", "digits", "fashion_mnist", "shapes", "folder"])
def test_an_image_of_the_networks_size_is_unchanged(dataset: str, resize: str) -> None:
    found = run(seven(), InputSpec(1, 28, 28, dataset, resize=resize))
    assert (found.pixels == seven()).all()
    assert (found.polarity, found.resize) == ("kept", "unchanged")


@pytest.mark.parametrize("dataset", ["mnist", "digits", "fashion_mnist"])
def test_dark_on_light_is_inverted_and_reported(dataset: str) -> None:
    found = run(255 - seven(), InputSpec(1, 28, 28, dataset))
    assert (found.pixels == seven()).all()
    assert (found.polarity, found.resize) == ("inverted", "unchanged")


@pytest.mark.parametrize("dataset", ["shapes", "cifar10", "folder", "other"])
def test_polarity_is_kept_where_the_training_data_had_both(dataset: str) -> None:
    assert run(255 - seven(), InputSpec(1, 28, 28, dataset)).polarity == "kept"


@pytest.mark.parametrize("size", [28, 56, 91])
@pytest.mark.parametrize("background", [0, 255])
def test_a_polarity_given_overrides_the_one_detected(size: int, background: int) -> None:
    image = Image.fromarray(sheet((28, 28), 0, 0, background)).resize((size, size), Image.Resampling.NEAREST)
    kept = run(image, InputSpec(1, 28, 28, "mnist", "keep"))
    inverted = run(image, InputSpec(1, 28, 28, "mnist", "invert"))
    assert (kept.polarity, inverted.polarity) == ("kept", "inverted")
    assert (kept.pixels.mean() < inverted.pixels.mean()) == (background == 0)


@pytest.mark.parametrize("times", [2, 3, 10, 50])
@pytest.mark.parametrize("background", [0, 255])
def test_an_enlarged_digit_is_restored_exactly(times: int, background: int) -> None:
    found = run(np.kron(sheet((28, 28), 0, 0, background), np.ones((times, times), np.uint8)))
    assert (found.pixels == seven()).all()
    assert found.resize == "resized"


@pytest.mark.parametrize(("shape", "top", "left"), [((100, 100), 3, 70), ((200, 300), 172, 0), ((28, 90), 0, 9)])
@pytest.mark.parametrize("background", [0, 255])
def test_a_digit_anywhere_on_a_larger_sheet_is_moved_without_changing_a_pixel(shape, top, left, background) -> None:
    found = run(sheet(shape, top, left, background))
    assert (found.pixels == seven()).all()
    assert found.resize == "centered"


def test_a_digit_of_any_size_and_place_gets_twenty_pixels_and_a_centered_mass() -> None:
    for side in (40, 90, 333):
        image = Image.fromarray(seven()[2:-2, 2:-2]).resize((side, side), Image.Resampling.BICUBIC)
        paper = Image.new("L", (900, 700), 0)
        paper.paste(image, (500, 20))
        found = run(Image.eval(paper, lambda value: 255 - value))
        pixels = found.pixels[0].astype(float)
        rows, columns = np.nonzero(pixels > 64)
        assert abs(max(np.ptp(rows), np.ptp(columns)) + 1 - 20) <= 1
        center = (np.indices(pixels.shape) * pixels).sum((1, 2)) / pixels.sum()
        assert np.abs(center - 14).max() <= 0.5
        assert likeness(pixels) > 0.9


def test_a_photograph_of_paper_in_uneven_light_becomes_light_ink_on_black() -> None:
    rng = np.random.default_rng(0)
    ink = np.asarray(Image.fromarray(seven()).resize((200, 200), Image.Resampling.BICUBIC)) / 255
    paper = np.zeros((480, 640))
    paper[200:400, 90:290] = ink
    light = 90 + 140 * np.linspace(0, 1, 640) * np.linspace(1, 0.6, 480)[:, None]
    photo = (light * (1 - 0.7 * paper) + rng.normal(0, 5, paper.shape)).clip(0, 255).astype(np.uint8)
    found = run(photo)
    assert (found.polarity, found.resize) == ("inverted", "centered")
    assert likeness(found.pixels[0]) > 0.9
    assert found.pixels[0, 0].max() == 0


def test_specks_are_removed() -> None:
    clean = sheet((200, 200), 80, 90)
    dirty = clean.copy()
    dirty[3, 3] = 255
    dirty[190, 180] = 200
    assert (run(dirty).pixels == run(clean).pixels).all()


def test_thin_strokes_are_thickened() -> None:
    paper = np.full((900, 900), 255, np.uint8)
    paper[100:800, 450:454] = 0
    found = run(paper)
    assert found.pixels.max() > 200
    assert (found.pixels > 64).sum() >= 30


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_empty_image_has_no_ink(level: int) -> None:
    found = run(np.full((50, 40), level, np.uint8))
    assert found.resize == "no ink"
    assert found.pixels.max() == 0


def test_clothes_are_padded_with_their_background() -> None:
    image = np.full((40, 20), 250, np.uint8)
    image[5:35, 5:15] = 30
    found = run(image, FASHION)
    assert (found.polarity, found.resize) == ("inverted", "padded")
    assert set(np.unique(found.pixels[0, :, :7])) == {5}
    assert found.pixels[0, 14, 14] == 225


def test_clothes_are_trimmed_of_wide_margins_before_as_fashion_mnist_was() -> None:
    paper = np.full((300, 400), 255, np.uint8)
    paper[100:170, 30:100] = np.linspace(200, 40, 70).astype(np.uint8)
    found = run(paper, FASHION)
    assert found.pixels[0].min() >= 50  # nothing but the garment
    padded = run(paper, InputSpec(1, 28, 28, "fashion_mnist", resize="pad"))
    assert (padded.pixels[0, :3] == 0).all()


def test_a_photograph_is_cropped_to_its_center() -> None:
    image = np.zeros((64, 192, 3), np.uint8)
    image[:, 64:128] = (10, 200, 30)
    found = run(image, CIFAR)
    assert (found.polarity, found.resize) == ("kept", "cropped")
    assert (found.pixels == np.array([10, 200, 30])[:, None, None]).all()


def test_images_for_a_network_trained_on_a_folder_are_stretched_as_they_were_in_training() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (77, 50, 4), dtype=np.uint8))
    white = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    expected = np.asarray(stretch(white, 3, (24, 24))).transpose(2, 0, 1)
    assert (run(image, InputSpec(3, 24, 24, "folder")).pixels == expected).all()


def test_stretching_to_the_same_size_changes_nothing() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    assert (np.asarray(stretch(image, 3, (7, 9))) == np.asarray(image)).all()


@pytest.mark.parametrize(("resize", "done"), [("stretch", "stretched"), ("center_crop", "cropped"), ("pad", "padded")])
def test_a_resize_given_overrides_what_the_training_data_had(resize: str, done: str) -> None:
    assert run(sheet((90, 60), 20, 20), InputSpec(1, 28, 28, "mnist", resize=resize)).resize == done


def test_shrinking_is_a_mean_over_areas_and_keeps_the_total() -> None:
    pixels = np.random.default_rng(0).random((37, 53, 3)).astype(np.float32)
    small = area_resize(pixels, 10, 7)
    assert small.shape == (10, 7, 3)
    assert np.allclose(small.mean((0, 1)), pixels.mean((0, 1)), atol=1e-5)
    assert np.allclose(area_resize(np.kron(seven(), np.ones((3, 3))), 28, 28), seven(), atol=1e-3)
    assert area_resize(np.ones((2, 3)), 9, 9) == pytest.approx(1)


@pytest.mark.parametrize("spec", [MNIST, CIFAR, FASHION, InputSpec(3, 9, 40, "mnist"), InputSpec(3, 20, 20, "folder")])
def test_every_kind_of_image_fits_every_network(spec: InputSpec) -> None:
    for name, content in odd_files.readable().items():
        for resize in ("auto", "stretch", "center_crop", "pad"):
            with open_image(content, name) as image:
                found = preprocess(image, replace(spec, resize=resize))
            assert found.pixels.shape == (spec.channels, spec.height, spec.width), (name, resize)
            assert found.pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("configured", "trained_on", "mean", "kind"),
    [
        ("mnist", "mnist", 0.13, "mnist"),
        ("mnist", "digits", 0.12, "digits"),
        ("fashion_mnist", "shapes", 0.4, "shapes"),
        ("folder", "mnist", 0.1, "folder"),
        ("arrays", "mnist", 0.87, "other"),
        ("arrays", "mnist", 0.13, "mnist"),
    ],
)
def test_the_kind_of_data_is_what_was_trained_on_whatever_a_stand_in_or_a_folder_is_called(
    configured: str, trained_on: str, mean: float, kind: str
) -> None:
    assert dataset_kind(configured, trained_on, [mean]) == kind
