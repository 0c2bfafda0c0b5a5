"""What a function of the user's may give as data, and what of it is refused."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import FakeData
from torchvision.transforms import ToTensor

from smallvision.core.errors import UserError
from smallvision.data.arrays import as_dataset

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])
TENSORS = torch.from_numpy(IMAGES).permute(0, 3, 1, 2)


class Pairs(list[Any]):
    """A data set in torchvision's style."""

    classes = ("red", "green", "blue")


PAIRS = Pairs((image, int(label)) for image, label in zip(IMAGES, LABELS, strict=True))


class AsDataset:
    def __init__(self, pairs: list[Any]) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Any:
        return self.pairs[index]


def items(transform: Any) -> AsDataset:
    return AsDataset([(transform(image), label) for image, label in PAIRS])


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, LABELS),
        [TENSORS, torch.from_numpy(LABELS)],
        (TENSORS, LABELS.tolist()),
        {"x_train": IMAGES, "y_train": LABELS},
        items(np.asarray),
        items(Image.fromarray),
        items(lambda image: torch.from_numpy(image).permute(2, 0, 1)),
        items(lambda image: ToTensor()(Image.fromarray(image))),
    ],
    ids=["arrays", "tensors", "tensor and list", "dict", "data set of arrays", "of PIL", "of uint8", "of floats"],
)
def test_every_form_gives_the_same_bytes(given: Any) -> None:
    found = as_dataset(given, "mine", "mypkg.mine")
    assert torch.equal(found.train_images, TENSORS)
    assert found.train_labels.tolist() == LABELS.tolist()
    assert (len(found.test_images), found.classes, found.source) == (0, ["0", "1", "2"], "mypkg.mine")


@pytest.mark.parametrize(
    "given",
    [
        (IMAGES, LABELS, IMAGES[:2], LABELS[:2]),
        ((IMAGES, LABELS), (IMAGES[:2], LABELS[:2])),
        {"x_train": IMAGES, "y_train": LABELS, "x_test": IMAGES[:2], "y_test": LABELS[:2]},
        (items(np.asarray), AsDataset(PAIRS[:2])),
    ],
    ids=["four arrays", "two pairs", "dict", "two data sets"],
)
def test_a_second_part_is_the_test_set(given: Any) -> None:
    found = as_dataset(given, "mine", "mypkg.mine")
    assert torch.equal(found.test_images, TENSORS[:2])
    assert found.test_labels.tolist() == [0, 1]


def test_the_classes_of_a_data_set_or_a_dict_name_the_classes() -> None:
    named = items(np.asarray)
    named.classes = Pairs.classes  # type: ignore[attr-defined]
    for given in (named, {"x_train": IMAGES, "y_train": LABELS, "classes": np.array(Pairs.classes)}):
        assert as_dataset(given, "mine", "mypkg.mine").classes == ["red", "green", "blue"]


def test_a_data_set_of_torchvision_is_read() -> None:
    found = as_dataset(FakeData(size=5, image_size=(1, 8, 9), num_classes=3, transform=ToTensor()), "fake", "x.fake")
    assert found.train_images.shape == (5, 1, 8, 9)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (None, "gave a NoneType, must give"),
        (3, "gave a int, must give"),
        ((IMAGES,), "gave a tuple"),
        ((IMAGES, LABELS, IMAGES), "gave a tuple"),
        ({}, "gave a dict"),
        ((IMAGES.astype(float), LABELS), "images must be uint8"),
        ((IMAGES, LABELS / 2), "labels must be integers"),
        ((IMAGES, LABELS[:4]), "6 train images but 4 labels"),
        ((TENSORS.float(), LABELS), "tensors of images must be uint8"),
        ((IMAGES, LABELS - 1), "labels run from -1"),
        (AsDataset([]), "there are no images"),
        (AsDataset([3]), "item 0 is a int, must be a pair"),
        (AsDataset([(IMAGES[0], 0), (IMAGES[1][:2], 1)]), "images differ in shape"),
        (AsDataset([(TENSORS[0].float(), 0)]), "leave normalisation to data.normalisation"),
        (AsDataset([(TENSORS, 0)]), "a tensor must be"),
    ],
)
def test_anything_else_is_refused_with_the_name_of_what_gave_it(given: Any, reason: str) -> None:
    with pytest.raises(UserError, match=r"^mypkg\.mine") as refused:
        as_dataset(given, "mine", "mypkg.mine")
    assert reason in str(refused.value)
