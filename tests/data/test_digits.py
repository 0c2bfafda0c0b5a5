"""The real handwriting that comes with scikit-learn."""

import torch

from smallvision.data.digits import digits


def test_there_are_1437_and_360_digits_of_the_size_of_mnist() -> None:
    data = digits()
    assert data.train_images.shape == (1437, 1, 28, 28)
    assert data.test_images.shape == (360, 1, 28, 28)
    assert data.classes == list("0123456789")
    assert data.train_labels.bincount().min() > 100
    assert data.test_labels.bincount().min() > 30


def test_strokes_use_the_whole_range_inside_an_empty_border() -> None:
    images = digits().train_images
    assert images.max() == 255
    border = torch.ones(28, 28, dtype=torch.bool)
    border[4:24, 4:24] = False
    assert images[..., border].max() == 0


def test_every_call_gives_the_same_bytes() -> None:
    assert digits().fingerprint == digits().fingerprint


def test_digits_asked_for_by_name_are_no_stand_in() -> None:
    assert digits().stand_in_for is None
