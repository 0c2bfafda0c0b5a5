"""The plain record: what it refuses, and its fingerprint."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from smallvision.core.errors import UserError
from smallvision.data.dataset import PARTS, ImageDataset


def record() -> ImageDataset:
    images = torch.arange(4 * 2 * 3 * 5, dtype=torch.uint8).view(4, 2, 3, 5)
    labels = torch.tensor([0, 1, 1, 0])
    return ImageDataset("toy", "the toy box", ["a", "b"], images, labels, images[:2], labels[:2])


def test_the_shape_is_channels_height_width() -> None:
    assert record().shape == (2, 3, 5)


@pytest.mark.parametrize("part", PARTS)
def test_the_fingerprint_changes_with_any_number(part: str) -> None:
    changed = getattr(record(), part).clone()
    changed.view(-1)[-1] ^= 1
    assert replace(record(), **{part: changed}).fingerprint != record().fingerprint


def test_the_fingerprint_changes_with_a_class_name_but_not_with_the_place() -> None:
    assert replace(record(), classes=["a", "c"]).fingerprint != record().fingerprint
    assert replace(record(), source="elsewhere").fingerprint == record().fingerprint
    assert len(record().fingerprint) == 16


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": torch.zeros(4, 2, 3, 5)}, "must be uint8"),
        ({"train_images": torch.zeros(4, 3, 5, dtype=torch.uint8)}, "N x C x H x W"),
        ({"train_labels": torch.tensor([0, 1, 1])}, "4 train images but 3 labels"),
        ({"test_labels": torch.tensor([0, 2])}, "test labels run from 0 to 2"),
        ({"train_labels": torch.tensor([-1, 1, 1, 0])}, "train labels run from -1 to 1"),
        ({"test_images": torch.zeros(2, 2, 3, 4, dtype=torch.uint8)}, "differ in shape"),
    ],
)
def test_a_record_that_does_not_fit_together_is_refused_with_its_source(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=f"the toy box: .*{words}"):
        replace(record(), **change)


def test_training_images_there_must_be_but_test_images_need_not() -> None:
    whole = record()
    replace(whole, test_images=whole.test_images[:0], test_labels=whole.test_labels[:0])
    with pytest.raises(UserError, match="no training images"):
        replace(whole, train_images=whole.train_images[:0], train_labels=whole.train_labels[:0])
