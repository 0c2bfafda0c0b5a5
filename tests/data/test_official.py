"""Arrays held against the official ones of a small made-up data set."""

import pytest
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.dataset import PARTS, ImageDataset, digest
from smallvision.data.standard import Array, held_against

FILES = {part: f"file-of-{part}" for part in PARTS}


def genuine(known_test: int = 6) -> tuple[dict[str, Tensor], dict[str, Array]]:
    """A made-up official data set of 8 + 6 images, and the table that describes it."""
    generator = torch.Generator().manual_seed(0)
    parts, table = {}, {}
    for part, count in (("train", 8), ("test", 6)):
        images = torch.randint(0, 256, (count, 1, 3, 3), generator=generator).to(torch.uint8)
        labels = torch.arange(count) % 4
        known = count if part == "train" else known_test
        parts |= {f"{part}_images": images, f"{part}_labels": labels}
        table[f"{part}_images"] = Array((count, 1, 3, 3), digest(images[:known]), known)
        table[f"{part}_labels"] = Array((count,), digest(labels[:known].to(torch.uint8)), known)
    return parts, table


def held(parts: dict[str, Tensor], table: dict[str, Array]) -> ImageDataset:
    return held_against(table, "toy", list("abcd"), "somewhere", parts, FILES)


def test_the_official_arrays_are_the_data_set_and_nothing_is_remarked() -> None:
    data = held(*genuine())
    assert (data.stand_in_for, data.remark, data.source) == (None, None, "somewhere")


def test_the_fingerprint_is_the_same_with_and_without_the_digests_already_taken() -> None:
    parts, table = genuine()
    data = held(parts, table)
    assert data.digests
    assert data.fingerprint == ImageDataset.of(parts, "toy", "elsewhere", list("abcd")).fingerprint


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("where", [0, -1])
def test_one_altered_number_is_refused_and_its_file_named(part: str, where: int) -> None:
    parts, table = genuine()
    parts[part].view(-1)[where] ^= 1
    with pytest.raises(UserError, match=f"file-of-{part}: altered"):
        held(parts, table)


@pytest.mark.parametrize("count", [1, 7])
def test_training_images_of_another_number_are_a_stand_in(count: int) -> None:
    parts, table = genuine()
    parts |= {part: parts[part][:count] for part in ("train_images", "train_labels")}
    data = held(parts, table)
    assert data.stand_in_for == "toy"
    assert "not the official toy" in data.source


def test_images_of_another_size_are_a_stand_in() -> None:
    parts, table = genuine()
    parts |= {part: parts[part][..., :2] for part in ("train_images", "test_images")}
    assert held(parts, table).stand_in_for == "toy"


def test_fewer_test_images_than_the_official_ones_are_remarked() -> None:
    parts, table = genuine(known_test=3)
    parts |= {part: parts[part][:4] for part in ("test_images", "test_labels")}
    data = held(parts, table)
    assert data.stand_in_for is None
    assert data.remark == "only 4 of the 6 test images are here"


def test_fewer_test_images_than_are_known_are_not_called_official() -> None:
    parts, table = genuine(known_test=3)
    parts |= {part: parts[part][:2] for part in ("test_images", "test_labels")}
    data = held(parts, table)
    assert data.stand_in_for is None
    assert data.remark == "the 2 test images are not the official ones"


def test_no_test_images_are_remarked_too() -> None:
    parts, table = genuine()
    parts |= {part: parts[part][:0] for part in ("test_images", "test_labels")}
    assert held(parts, table).remark == "only 0 of the 6 test images are here"


def test_an_altered_known_part_of_a_shorter_test_set_is_refused() -> None:
    parts, table = genuine(known_test=3)
    parts |= {part: parts[part][:4] for part in ("test_images", "test_labels")}
    parts["test_images"][1, 0, 0, 0] ^= 1
    with pytest.raises(UserError, match="file-of-test_images: altered"):
        held(parts, table)


def test_somebodys_own_images_may_have_a_test_set_of_any_length() -> None:
    parts, table = genuine(known_test=3)
    own = {"train_images": parts["train_images"][:5], "train_labels": parts["train_labels"][:5]}
    own |= {"test_images": 255 - parts["test_images"][:4], "test_labels": parts["test_labels"][:4]}
    assert held(own, table).stand_in_for == "toy"
