"""Batches are rotated, scaled, flipped, shifted and cut out at once, each image by its own random numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from smallvision.core.rng import stream
from smallvision.data.loader import Augmentation, _reflect

NEVER, ALWAYS = 0.9, 0.1  # uniforms that leave an image as it is, or flip it


def some_images(count: int, channels: int = 3, height: int = 7, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(0, 256, (count, channels, height, width), generator=generator).to(torch.uint8)


def uniforms(
    flip: float = NEVER,
    shift: tuple[float, float] = (0.5, 0.5),
    cut: tuple[float, float] = (0.5, 0.5),
    angle: float = 0.5,
    size: float = 0.5,
) -> Tensor:
    """The row for one image; by default nothing changes it."""
    return torch.tensor([[flip, *shift, *cut, angle, size]])


def shift_uniform(by: int, most: int) -> float:
    """The middle of the uniforms that shift an image by ``by`` of up to ``most`` pixels."""
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
    assert torch.equal(flip(images, uniforms(ALWAYS).expand(count, 7)), images.flip(3))
    assert torch.equal(flip(images, uniforms(NEVER).expand(count, 7)), images)


@settings(deadline=None, max_examples=60)
@given(data=st.data(), most=st.integers(1, 12), height=sizes, width=sizes)
def test_a_shift_is_padding_by_reflection_and_cropping(data: st.DataObject, most: int, height: int, width: int) -> None:
    down, right = data.draw(st.integers(-most, most)), data.draw(st.integers(-most, most))
    images = some_images(1, 2, height, width)
    place = shift_uniform(down, most), shift_uniform(right, most)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (most, most), (most, most)), mode="reflect")
    top, left = most + down, most + right
    expected = padded[:, :, top : top + height, left : left + width]
    assert np.array_equal(Augmentation(shift=most)(images, uniforms(shift=place)), expected)


def test_a_flipped_image_is_then_shifted() -> None:
    images = some_images(1)
    both = Augmentation(flip=True, shift=2)(images, uniforms(ALWAYS, (0.5, shift_uniform(1, 2))))
    shifted = Augmentation(shift=2)(images, uniforms(shift=(0.5, shift_uniform(-1, 2))))
    assert torch.equal(both, shifted.flip(3))


def test_shifts_are_uniform() -> None:
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
def test_cutout_sets_its_square_as_far_as_it_lies_in_the_image(
    data: st.DataObject, side: int, height: int, width: int
) -> None:
    row, column = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    center = row + 0.3, column + 0.3  # off the middles and borders of pixels, where rounding would decide
    images = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    place = center[0] / height, center[1] / width
    cut = Augmentation(cutout=side, fill=(10, 20, 30))(images, uniforms(cut=place))

    def within(length: int, middle: float) -> list[int]:
        return [pixel for pixel in range(length) if abs(pixel + 0.5 - middle) <= side / 2]

    rows, columns = within(height, center[0]), within(width, center[1])
    expected = torch.zeros_like(images)
    expected[:, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = torch.tensor(
        [10, 20, 30], dtype=torch.uint8
    ).view(1, 3, 1, 1)
    assert torch.equal(cut, expected)
    assert len(rows) <= side
    assert len(columns) <= side


@pytest.mark.parametrize("side", [1, 2, 3, 8])
def test_cutout_in_the_center_is_a_square(side: int) -> None:
    cut = Augmentation(cutout=side, fill=(7,))(torch.zeros(1, 1, 20, 20, dtype=torch.uint8), uniforms(cut=(0.51, 0.51)))
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
    augment = Augmentation(flip, shift, cutout, fill=(1, 2, 3))
    images = some_images(count, 3, height, width)
    before = images.clone()
    results = [augment(images, augment.draw(count, stream(seed, "test"))) for _ in range(2)]
    assert results[0].dtype == torch.uint8
    assert results[0].shape == images.shape
    assert torch.equal(results[0], results[1])
    assert torch.equal(images, before)
    colours = {*images.unique().tolist(), 1, 2, 3} if cutout else set(images.unique().tolist())
    assert set(results[0].unique().tolist()) <= colours


# Rotated and scaled ------------------------------------------------------------------------


FULL = 1.0  # uniforms come arbitrarily near to it
angles, sizes_drawn = st.floats(0, 1, width=32), st.floats(0, 1, width=32)


def smooth_image(height: int = 24, width: int = 24) -> Tensor:
    """One smooth enough to lose little by interpolation."""
    down, right = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return (128 + 60 * torch.sin(down / 4) + 60 * torch.cos(right / 5 + 1)).view(1, 1, height, width)


@settings(deadline=None, max_examples=30)
@given(count=st.integers(1, 4), height=sizes, width=sizes, floats=st.booleans())
def test_a_rotation_by_0_degrees_and_a_scale_of_1_change_nothing(
    count: int, height: int, width: int, floats: bool
) -> None:
    images = some_images(count, 3, height, width)
    images = images / 255 if floats else images
    table = uniforms().expand(count, 7)
    found = Augmentation(rotate=30, scale=0.2)(images, table)
    assert found.dtype == images.dtype
    assert torch.allclose(found, images, rtol=0, atol=1e-5)
    none = Augmentation(flip=True, rotate=0, scale=0)(images, Augmentation.draw(count, stream(0, "test")))
    assert torch.equal(none, Augmentation(flip=True)(images, Augmentation.draw(count, stream(0, "test"))))


@settings(deadline=None, max_examples=30)
@given(height=st.integers(2, 9), width=st.integers(2, 9), angle=st.sampled_from([0.0, FULL]))
def test_a_half_turn_is_a_flip_of_both_axes(height: int, width: int, angle: float) -> None:
    images = some_images(3, 3, height, width)
    found = Augmentation(rotate=180)(images, uniforms(angle=angle).expand(3, 7))
    assert (found.int() - images.flip(2, 3).int()).abs().max() <= 1


@pytest.mark.parametrize(("angle", "quarters"), [(0.0, -1), (FULL, 1)])
def test_a_quarter_turn_of_a_square_is_one_and_the_ends_turn_opposite_ways(angle: float, quarters: int) -> None:
    images = some_images(3, 3, 8, 8)
    found = Augmentation(rotate=90)(images, uniforms(angle=angle).expand(3, 7))
    assert (found.int() - images.rot90(quarters, (2, 3)).int()).abs().max() <= 1


def test_a_rectangular_image_is_rotated_without_distortion() -> None:
    """A bar along the middle row lies along the middle column after a quarter turn, as long as it was."""
    image = torch.zeros(1, 1, 21, 41, dtype=torch.uint8)
    image[..., 9:12, 15:26] = 255
    found = Augmentation(rotate=90)(image, uniforms(angle=FULL))
    expected = torch.zeros_like(image)
    expected[..., 5:16, 19:22] = 255
    assert (found.int() - expected.int()).abs().max() <= 1


@settings(deadline=None, max_examples=40)
@given(
    grey=st.integers(0, 255), angle=angles, size=sizes_drawn, height=sizes, width=sizes,
    rotate=st.floats(0, 180), scale=st.floats(0, 0.99),
)  # fmt: skip
def test_an_image_of_one_colour_is_unchanged_by_any_rotation(
    grey: int, angle: float, size: float, height: int, width: int, rotate: float, scale: float
) -> None:
    """Nothing comes in from beyond the border."""
    images = torch.full((1, 3, height, width), grey, dtype=torch.uint8)
    assert torch.equal(Augmentation(rotate=rotate, scale=scale)(images, uniforms(angle=angle, size=size)), images)


@pytest.mark.parametrize(("size", "factor"), [(FULL, 1.5), (0.5, 1.0), (0.0, 0.5)])
def test_a_square_in_the_middle_grows_and_shrinks_by_the_fraction(size: float, factor: float) -> None:
    image = torch.zeros(1, 1, 32, 32)
    image[..., 8:24, 8:24] = 1
    found = Augmentation(scale=0.5)(image, uniforms(size=size))
    assert found.sum().item() == pytest.approx((16 * factor) ** 2, rel=0.02)
    assert torch.allclose(found, found.flip(2, 3), atol=1e-5)  # and it stays in the middle


@settings(deadline=None, max_examples=30)
@given(angle=angles, size=sizes_drawn)
def test_bytes_are_the_rounded_result_of_floats(angle: float, size: float) -> None:
    images, augment = some_images(2), Augmentation(rotate=40, scale=0.3)
    table = uniforms(angle=angle, size=size).expand(2, 7)
    rotated, floats = augment(images, table), augment(images.float(), table)
    assert (rotated.dtype, floats.dtype) == (torch.uint8, torch.float32)
    assert (rotated - floats).abs().max() <= 0.5
    assert floats.min() >= images.min()
    assert floats.max() <= images.max()


@settings(deadline=None, max_examples=30)
@given(angle=angles)
def test_a_rotation_and_its_inverse_restore_the_center(angle: float) -> None:
    image, augment = smooth_image(), Augmentation(rotate=30)
    back = augment(augment(image, uniforms(angle=angle)), uniforms(angle=1 - angle))
    assert (back - image)[..., 7:17, 7:17].abs().max() < 4


def test_angles_and_sizes_are_uniform() -> None:
    """Where a bright spot above and right of the center, at a distance of 10, goes, shows angle and size."""
    down, right = torch.meshgrid(torch.arange(41), torch.arange(41), indexing="ij")
    image = torch.exp(-((down - 12) ** 2 + (right - 26) ** 2) / 8).view(1, 1, 41, 41)
    table = Augmentation.draw(1000, stream(0, "test"))
    found = Augmentation(rotate=40, scale=0.25)(image.expand(1000, 1, 41, 41), table)[:, 0]
    place = torch.arange(41) - 20.0
    mass = found.sum((1, 2))
    right = (found.sum(1) * place).sum(1) / mass
    up = -(found.sum(2) * place).sum(1) / mass
    start = np.degrees(np.arctan2(8, 6))
    angle = torch.rad2deg(torch.atan2(up, right)) - start
    distance = (up**2 + right**2).sqrt() / 10
    assert angle.abs().max() < 42
    assert 0.74 < distance.min() < 0.78
    assert 1.22 < distance.max() < 1.27
    assert angle.histc(4, -40, 40).min() > 200
    assert distance.histc(4, 0.75, 1.25).min() > 200


def test_rotation_and_scale_leave_the_other_changes_as_they_were() -> None:
    table = Augmentation.draw(50, stream(3, "test"))
    assert torch.equal(table[:, :5], torch.rand((50, 5), generator=stream(3, "test")))
    assert ((table >= 0) & (table < 1)).all()
    assert len(table.unique()) > 340  # no column is another's copy
    images, table = some_images(8), Augmentation.draw(8, stream(0, "test"))
    rotated = Augmentation(rotate=30, scale=0.2)(images, table)
    flipped = Augmentation(flip=True, shift=2)(rotated, table)
    assert torch.equal(Augmentation(True, 2, rotate=30, scale=0.2)(images, table), flipped)


def test_rotation_leaves_the_sizes_and_scale_the_angles() -> None:
    images, table = some_images(8), Augmentation.draw(8, stream(0, "test"))
    still = table.clone()
    still[:, 6] = 0.5
    assert torch.equal(Augmentation(rotate=30)(images, table), Augmentation(rotate=30, scale=0.5)(images, still))
    still = table.clone()
    still[:, 5] = 0.5
    assert torch.equal(Augmentation(scale=0.5)(images, table), Augmentation(rotate=30, scale=0.5)(images, still))


@pytest.mark.parametrize("options", [{"flip": True}, {"shift": 2}, {"cutout": 3}, {"rotate": 20.0}, {"scale": 0.2}])
def test_floats_stay_floats(options: dict[str, float]) -> None:
    images = some_images(4) / 255
    found = Augmentation(**options)(images, Augmentation.draw(4, stream(0, "test")))
    assert found.dtype == torch.float32
    assert not torch.equal(found, images)


# All together -----------------------------------------------------------------------------------------------


def test_each_image_is_changed_by_itself() -> None:
    images = some_images(1).expand(50, 3, 7, 5)
    moved = Augmentation(flip=True, shift=2)(images, Augmentation.draw(50, stream(0, "test")))
    assert len(moved.flatten(1).unique(dim=0)) > 20


def test_images_do_not_depend_on_what_else_is_in_the_batch() -> None:
    augment = Augmentation(flip=True, shift=3, cutout=3, rotate=20, scale=0.2, fill=(9,))
    images, table = some_images(8), Augmentation.draw(8, stream(0, "test"))
    batch = augment(images, table)
    parts = [augment(images[rank::3], table[rank::3]) for rank in range(3)]
    assert all(torch.equal(batch[rank::3], part) for rank, part in enumerate(parts))


def test_turning_one_change_on_leaves_the_others_as_they_were() -> None:
    images, table = some_images(8), Augmentation.draw(8, stream(0, "test"))
    flipped = Augmentation(flip=True)(images, table)
    both = Augmentation(flip=True, cutout=3)(images, table)
    assert torch.equal(torch.where(both == 0, 0, flipped), both)


def test_an_augmentation_of_nothing_is_false_and_gives_the_images_back() -> None:
    images = some_images(2)
    assert not Augmentation()
    for options in ({"cutout": 1}, {"rotate": 0.5}, {"scale": 0.01}, {"flip": "alternating"}):
        assert Augmentation(**options)
    assert torch.equal(Augmentation()(images, Augmentation.draw(2, stream(0, "test"))), images)
