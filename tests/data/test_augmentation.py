"""Whole batches are flipped, shifted and cut where they lie."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smallvision.data.augmentation import Augmentation, _reflect
from smallvision.randomness import stream

NEVER, ALWAYS = 0.9, 0.1  # first draws that leave an image as it is, or flip it


def some_images(count: int, channels: int = 3, height: int = 7, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator).to(torch.uint8)


def draws(
    flip: float = NEVER, shift: tuple[float, float] = (0.5, 0.5), cut: tuple[float, float] = (0.5, 0.5)
) -> Tensor:
    """The draws for one image."""
    return torch.tensor([[flip, *shift, *cut]])


def shift_draw(by: int, most: int) -> float:
    """The middle of the draws that move an image by ``by`` of up to ``most`` pixels."""
    return (by + most + 0.5) / (2 * most + 1)


sizes = st.integers(1, 9)


@pytest.mark.parametrize(
    ("size", "index", "reflected"),
    [
        (4, range(-6, 10), [0, 1, 2, 3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1, 2, 3]),
        (2, range(-3, 5), [1, 0, 1, 0, 1, 0, 1, 0]),
        (1, range(-3, 4), [0] * 7),
    ],
)
def test_indices_beyond_the_border_are_mirrored_without_repeating_it(
    size: int, index: range, reflected: list[int]
) -> None:
    assert _reflect(torch.tensor(index), size).tolist() == reflected


@settings(deadline=None, max_examples=40)
@given(count=st.integers(0, 4), channels=st.integers(1, 4), height=sizes, width=sizes)
def test_a_flip_is_exact(count: int, channels: int, height: int, width: int) -> None:
    images = some_images(count, channels, height, width)
    flip = Augmentation(flip=True)
    assert torch.equal(flip(images, draws(ALWAYS).expand(count, 5)), images.flip(3))
    assert torch.equal(flip(images, draws(NEVER).expand(count, 5)), images)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), most=st.integers(1, 12), height=sizes, width=sizes)
def test_a_shift_is_padding_by_reflection_and_cropping(
    data: st.DataObject, most: int, height: int, width: int
) -> None:
    down, right = data.draw(st.integers(-most, most)), data.draw(st.integers(-most, most))
    images = some_images(1, 2, height, width)
    place = shift_draw(down, most), shift_draw(right, most)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (most, most), (most, most)), mode="reflect")
    top, left = most + down, most + right
    expected = padded[:, :, top : top + height, left : left + width]
    assert np.array_equal(Augmentation(shift=most)(images, draws(shift=place)), expected)


def test_a_flipped_image_is_then_shifted() -> None:
    images = some_images(1)
    both = Augmentation(flip=True, shift=2)(images, draws(ALWAYS, (0.5, shift_draw(1, 2))))
    shifted = Augmentation(shift=2)(images, draws(shift=(0.5, shift_draw(-1, 2))))
    assert torch.equal(both, shifted.flip(3))


def test_every_shift_up_to_the_most_is_drawn_about_equally_often() -> None:
    images = torch.arange(9, dtype=torch.uint8).view(1, 1, 1, 9).expand(5000, 1, 9, 9)
    table = Augmentation.draw(5000, stream(0, "test"))
    middles = Augmentation(shift=2)(images, table)[:, 0, 4, 4]
    counts = middles.int().bincount()
    assert counts.tolist()[:2] == [0, 0]
    assert len(counts) == 7
    assert counts[2:].min() > 850


def test_about_half_of_the_images_are_flipped() -> None:
    images = torch.tensor([0, 255], dtype=torch.uint8).expand(5000, 1, 2, 2)
    flipped = Augmentation(flip=True)(images, Augmentation.draw(5000, stream(0, "test")))
    assert 2300 < (flipped[:, 0, 0, 0] == 255).sum() < 2700


@settings(deadline=None, max_examples=60)
@given(data=st.data(), side=st.integers(1, 12), height=sizes, width=sizes)
def test_a_hole_has_the_area_of_its_square_as_far_as_that_lies_in_the_image(
    data: st.DataObject, side: int, height: int, width: int
) -> None:
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    centre = row + 0.3, column + 0.3  # off the middles and borders of pixels, where rounding would decide
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    place = centre[0] / height, centre[1] / width
    cut = Augmentation(cutout=side, fill=(10, 20, 30))(images, draws(cut=place))

    def within(length: int, middle: float) -> list[int]:
        return [pixel for pixel in range(length) if abs(pixel + 0.5 - middle) <= side / 2]

    rows, columns = within(height, centre[0]), within(width, centre[1])
    expected = torch.zeros_like(images)
    expected[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = torch.tensor(
        [10, 20, 30], dtype=torch.uint8
    ).view(1, 3, 1, 1)
    assert torch.equal(cut, expected)
    assert len(rows) <= side
    assert len(columns) <= side


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_a_hole_in_the_middle_is_a_whole_square(side: int) -> None:
    cut = Augmentation(cutout=side, fill=(7,))(
        torch.zeros(1, 1, 20, 20, dtype=torch.uint8), draws(cut=(0.51, 0.51))
    )
    assert (cut == 7).sum() == side * side


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(0, 5),
    flip=st.booleans(),
    shift=st.integers(0, 10),
    cutout=st.integers(0, 10),
    height=sizes,
    width=sizes,
)
def test_any_augmentation_keeps_type_and_shape_and_repeats_exactly(
    seed: int, count: int, flip: bool, shift: int, cutout: int, height: int, width: int
) -> None:
    augment = Augmentation(flip, shift, cutout, (1, 2, 3))
    images = some_images(count, 3, height, width)
    before = images.clone()
    results = [augment(images, augment.draw(count, stream(seed, "test"))) for _ in range(2)]
    assert results[0].dtype == torch.uint8
    assert results[0].shape == images.shape
    assert torch.equal(results[0], results[1])
    assert torch.equal(images, before)
    colours = {*images.unique().tolist(), 1, 2, 3} if cutout else set(images.unique().tolist())
    assert set(results[0].unique().tolist()) <= colours


def test_each_image_has_its_own_draws() -> None:
    images = some_images(1).expand(50, 3, 7, 5)
    moved = Augmentation(flip=True, shift=2)(images, Augmentation.draw(50, stream(0, "test")))
    assert len(moved.flatten(1).unique(dim=0)) > 20


def test_images_do_not_depend_on_what_else_is_in_the_batch() -> None:
    augment = Augmentation(flip=True, shift=3, cutout=3, fill=(9,))
    images, table = some_images(8), Augmentation.draw(8, stream(0, "test"))
    whole = augment(images, table)
    parts = [augment(images[rank::3], table[rank::3]) for rank in range(3)]
    assert all(torch.equal(whole[rank::3], part) for rank, part in enumerate(parts))


def test_one_choice_switched_on_leaves_the_others_as_they_were() -> None:
    images, table = some_images(8), Augmentation.draw(8, stream(0, "test"))
    flipped = Augmentation(flip=True)(images, table)
    both = Augmentation(flip=True, cutout=3)(images, table)
    assert torch.equal(torch.where(both == 0, 0, flipped), both)


def test_an_augmentation_of_nothing_is_false_and_gives_the_images_back() -> None:
    images = some_images(2)
    assert not Augmentation()
    assert Augmentation(cutout=1)
    assert torch.equal(Augmentation()(images, Augmentation.draw(2, stream(0, "test"))), images)
