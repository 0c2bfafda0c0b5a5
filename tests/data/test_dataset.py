"""A data set in memory: what it refuses, its fingerprint, its split and its statistics."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvision.core.errors import UserError
from smallvision.data import dataset as module
from smallvision.data.dataset import Arrays, ImageDataset, mean_and_std, stratified_split, validation_size


def toy() -> ImageDataset:
    images = torch.arange(4 * 2 * 3 * 5, dtype=torch.uint8).view(4, 2, 3, 5)
    labels = torch.tensor([0, 1, 1, 0])
    return ImageDataset("toy", "the toy box", ["a", "b"], images, labels, images[:2], labels[:2])


def test_the_shape_is_channels_height_width() -> None:
    assert toy().shape == (2, 3, 5)


@pytest.mark.parametrize("key", Arrays._fields)
def test_the_fingerprint_changes_with_any_number(key: str) -> None:
    changed = getattr(toy(), key).clone()
    changed.view(-1)[-1] ^= 1
    assert replace(toy(), **{key: changed}).fingerprint != toy().fingerprint


def test_the_fingerprint_changes_with_a_class_name_but_not_with_the_source() -> None:
    assert replace(toy(), classes=["a", "c"]).fingerprint != toy().fingerprint
    assert replace(toy(), source="elsewhere").fingerprint == toy().fingerprint
    assert len(toy().fingerprint) == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": torch.zeros(4, 2, 3, 5)}, "must be uint8"),
        ({"train_images": torch.zeros(4, 3, 5, dtype=torch.uint8)}, "N x C x H x W"),
        ({"train_labels": torch.tensor([0, 1, 1])}, "4 train images but 3 labels"),
        ({"test_labels": torch.tensor([0, 2])}, "test labels run from 0 to 2"),
        ({"train_labels": torch.tensor([-1, 1, 1, 0])}, "train labels run from -1 to 1"),
        ({"test_images": torch.zeros(2, 2, 3, 4, dtype=torch.uint8)}, "differ in shape"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused_with_their_source(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"the toy box: .*{message}"):
        replace(toy(), **change)


def test_training_images_are_required_and_test_images_are_not() -> None:
    data = toy()
    replace(data, test_images=data.test_images[:0], test_labels=data.test_labels[:0])
    with pytest.raises(UserError, match="no training images"):
        replace(data, train_images=data.train_images[:0], train_labels=data.train_labels[:0])


# Split ---------------------------------------------------------------------------------------------------


@st.composite
def labels_and_size(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    labels = draw(st.lists(st.integers(0, 6), min_size=1, max_size=120))
    return torch.tensor(labels), draw(st.integers(0, len(labels) - 1))


@settings(deadline=None, max_examples=60)
@given(case=labels_and_size(), seed=st.integers(0, 2**32 - 1))
def test_every_split_is_exact_disjoint_sorted_stratified_and_depends_on_the_seed_alone(
    case: tuple[torch.Tensor, int], seed: int
) -> None:
    labels, size = case
    train, val = stratified_split(labels, size, seed)
    assert len(val) == size
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist())
    assert val.tolist() == sorted(val.tolist())
    exact = labels.bincount().double() * size / len(labels)
    assert (labels[val].bincount(minlength=len(exact)) - exact).abs().max() < 1
    torch.rand(1)
    again = stratified_split(labels, size, seed)
    assert torch.equal(again[0], train)
    assert torch.equal(again[1], val)


def test_another_seed_holds_out_other_images() -> None:
    labels = torch.arange(200) % 10
    assert stratified_split(labels, 50, 0)[1].tolist() != stratified_split(labels, 50, 1)[1].tolist()


def test_equal_classes_are_held_out_equally() -> None:
    labels = torch.arange(200) % 10
    assert labels[stratified_split(labels, 50, 0)[1]].bincount().tolist() == [5] * 10


def test_an_empty_validation_set_leaves_everything_to_training() -> None:
    train, val = stratified_split(torch.tensor([3, 1, 1]), 0, 0)
    assert train.tolist() == [0, 1, 2]
    assert len(val) == 0


@pytest.mark.parametrize(
    ("counts", "wanted", "held_out"),
    [
        ([20, 20, 20], None, [2, 2, 2]),
        ([90, 4, 2, 1], None, [8, 1, 1, 0]),
        ([3, 3, 3], None, [1, 1, 1]),
        ([1, 1], None, [0, 0]),
        ([40, 40], 0.25, [10, 10]),
        ([96, 4], 0.1, [9, 1]),
        ([5, 5], 0.01, [1, 0]),
        ([96, 4], 3, [3, 0]),
    ],
)
def test_by_default_a_tenth_is_held_out_and_of_each_class_an_image(
    counts: list[int], wanted: float | None, held_out: list[int]
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    size = validation_size(labels, wanted)
    train, val = stratified_split(labels, size, 0, each_class=not isinstance(wanted, int))
    assert labels[val].bincount(minlength=len(counts)).tolist() == held_out
    assert sorted([*train.tolist(), *val.tolist()]) == [*range(len(labels))]


@pytest.mark.parametrize("size", [3, 4, 5000])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=rf"data\.val_size={size}: .*3 training images; use a value below 3"):
        stratified_split(torch.tensor([0, 1, 1]), size, 0)


# Statistics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (7, 3, 5, 4), (50, 4, 8, 8)])
@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_mean_and_deviation_are_those_of_all_pixels_in_chunks_of_any_size(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    mean, std = mean_and_std(images)
    assert mean == pytest.approx(pixels.mean(1).tolist(), rel=1e-9)
    assert std == pytest.approx(pixels.std(1, correction=0).tolist(), rel=1e-9)


@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_a_constant_channel_gets_a_deviation_of_one(level: int) -> None:
    images = torch.full((3, 2, 7, 7), level, dtype=torch.uint8)
    images[0, 1, 0, 0] = 128
    mean, std = mean_and_std(images)
    assert (mean[0], std[0]) == (level / 255, 1.0)
    assert 0 < std[1] < 1


def test_a_single_pixel_is_enough() -> None:
    assert mean_and_std(torch.full((1, 1, 1, 1), 51, dtype=torch.uint8)) == ([0.2], [1.0])
