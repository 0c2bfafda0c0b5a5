"""What an export is compared on, and what the user is told where that is not the test set."""

import pytest
import torch
from helpers.configs import resolved

from smallvision.core.errors import UserError
from smallvision.tasks.export.verify import find_images
from smallvision.training.model_spec import ModelSpec

SHAPES = ("data=shapes", "data.images=60", "data.test_images=40", "data.size=12", "data.val_size=0")


def spec(*shape: int, classes: int = 10) -> ModelSpec:
    channels, height, width = shape
    return ModelSpec({}, (channels, height, width), ["x"] * classes, [0.5] * channels, [0.5] * channels)


def test_test_images_are_used_where_there_are_any():
    found = find_images(resolved(*SHAPES), spec(1, 12, 12), chosen=True)
    assert found.images.shape == (40, 1, 12, 12)
    assert (found.description, found.caution) == ("40 test images of shapes", None)


def test_training_images_are_used_where_there_are_no_test_images():
    found = find_images(resolved(*SHAPES, "data.test_images=0"), spec(1, 12, 12), chosen=True)
    assert found.description == "60 training images of shapes"


def test_a_stand_in_is_named(tmp_path, monkeypatch):
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    typed = ("data=mnist", f"data_dir={tmp_path}")
    found = find_images(resolved(*typed, "data.offline=stand_in"), spec(1, 28, 28), chosen=False)
    assert found.description == f"{len(found.images):,} test images of digits, a stand-in for mnist"
    assert found.caution is not None
    assert found.caution.startswith("these images are not mnist (stand-in for mnist")
    with pytest.raises(UserError, match="data=mnist: not found"):
        find_images(resolved(*typed, "data.offline=error"), spec(1, 28, 28), chosen=True)


def test_random_images_are_used_where_the_data_cannot_be_read_unless_the_user_chose_them(tmp_path):
    (tmp_path / "x.npz").write_text("not an archive")
    config = resolved("data=arrays", f"data.path={tmp_path / 'x.npz'}")
    found = find_images(config, spec(1, 12, 12), chosen=False)
    assert found.images.shape == (1000, 1, 12, 12)
    assert found.images.dtype == torch.uint8
    assert found.description == "1,000 random images"
    assert found.caution is not None
    assert found.caution.startswith("the images of arrays are missing (")
    assert torch.equal(found.images, find_images(config, spec(1, 12, 12), chosen=False).images)
    assert len(find_images(config, spec(3, 1024, 1024), chosen=False).images) == 16
    with pytest.raises(UserError, match=r"x\.npz"):
        find_images(config, spec(1, 12, 12), chosen=True)


def test_chosen_data_of_another_shape_are_refused():
    with pytest.raises(UserError, match="images of 1x12x12 in 10 classes; the checkpoint is for 3x8x8 in 2"):
        find_images(resolved(*SHAPES), spec(3, 8, 8, classes=2), chosen=True)
