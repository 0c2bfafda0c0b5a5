"""Generated images."""

import pytest
import torch

from smallvision.core.errors import UserError
from smallvision.data.shapes import class_name, shapes


@pytest.mark.parametrize(("size", "channels", "classes"), [(28, 1, 10), (32, 3, 10), (1, 1, 2), (9, 4, 100)])
def test_images_have_the_size_channels_and_classes_asked_for(size: int, channels: int, classes: int) -> None:
    data = shapes(images=201, test_images=101, size=size, channels=channels, classes=classes)
    assert data.train_images.shape == (201, channels, size, size)
    assert data.test_images.shape == (101, channels, size, size)
    assert len(set(data.classes)) == classes
    for labels in (data.train_labels, data.test_labels):
        counts = labels.bincount(minlength=classes)
        assert counts.max() - counts.min() <= 1


def test_the_same_arguments_give_the_same_bytes_whatever_torch_generated_before() -> None:
    first = shapes(images=50, test_images=20)
    torch.rand(3)
    assert shapes(images=50, test_images=20).fingerprint == first.fingerprint


@pytest.mark.parametrize("change", [{"seed": 1}, {"difficulty": 0.6}, {"size": 27}, {"classes": 9}])
def test_another_argument_gives_other_bytes(change: dict[str, float]) -> None:
    first = shapes(images=50, test_images=20)
    assert shapes(**{"images": 50, "test_images": 20, **change}).fingerprint != first.fingerprint


def test_torchs_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    shapes(images=20, test_images=10)
    assert torch.equal(torch.get_rng_state(), before)


def test_training_and_test_images_differ() -> None:
    data = shapes(images=64, test_images=64)
    train = {image.numpy().tobytes() for image in data.train_images}
    assert not train & {image.numpy().tobytes() for image in data.test_images}


def test_no_test_images_and_fewer_images_than_classes_are_allowed() -> None:
    data = shapes(images=3, test_images=0, classes=10)
    assert len(data.train_labels) == 3
    assert len(data.test_labels) == 0


def test_images_of_difficulty_0_have_less_noise_than_of_difficulty_1() -> None:
    """The grain: how far pixels differ from their neighbours."""
    grain = {}
    for difficulty in (0.0, 1.0):
        images = shapes(images=200, test_images=0, difficulty=difficulty).train_images.float()
        grain[difficulty] = images.diff(dim=3).abs().median().item()
    assert grain[0.0] * 3 < grain[1.0]


def test_the_classes_of_easy_images_can_be_recognised_by_their_mean_image() -> None:
    data = shapes(images=1000, test_images=200, size=16, difficulty=0.0)
    train, test = data.train_images.flatten(1).float(), data.test_images.flatten(1).float()
    train, test = train - train.mean(1, keepdim=True), test - test.mean(1, keepdim=True)
    means = torch.stack([train[data.train_labels == label].mean(0) for label in range(10)])
    guesses = torch.nn.functional.normalize(test) @ torch.nn.functional.normalize(means).T
    assert (guesses.argmax(1) == data.test_labels).float().mean() > 0.5


def test_a_hundred_classes_are_named_and_more_are_refused() -> None:
    assert len({class_name(index) for index in range(100)}) == 100
    assert class_name(0) == "disc"
    assert class_name(10) == "striped disc"
    with pytest.raises(UserError, match=r"data\.classes=101: .*at most 100"):
        shapes(classes=101)
