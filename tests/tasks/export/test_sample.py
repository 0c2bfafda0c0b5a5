"""What an export is compared on, and what is said where that is not what it should be."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from smallvision.core.errors import UserError
from smallvision.tasks.export.sample import sample

CONFIGS = Path(__file__).parents[3] / "configs"


def config_of(*typed):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return yaml.safe_load(OmegaConf.to_yaml(compose("train", [*typed]), resolve=True))


@pytest.fixture(scope="module")
def composed():
    """A config of 60 shapes of 1 x 12 x 12, and 40 more for the test."""
    return config_of("data=shapes", "data.images=60", "data.test_images=40", "data.size=12", "data.val_size=0")


def test_test_images_are_taken_where_there_are_any(composed):
    seen = sample(composed, composed, (1, 12, 12), 10)
    assert seen.images.shape == (40, 1, 12, 12)
    assert (seen.words, seen.caution) == ("40 test images of shapes", None)


def test_training_images_do_where_there_are_no_others(composed):
    config = deepcopy(composed)
    config["data"]["test_images"] = 0
    assert sample(config, config, (1, 12, 12), 10).words == "60 training images of shapes"


def test_a_stand_in_is_called_one(tmp_path, monkeypatch):
    config = config_of("data=mnist", f"data_dir={tmp_path}", "data.offline=stand_in")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    seen = sample(config, config, (1, 28, 28), 10)
    assert seen.words == f"{len(seen.images):,} test images of digits, a stand-in for mnist"
    assert seen.caution is not None
    assert seen.caution.startswith("these images are not mnist (stand-in for mnist")
    config["data"]["offline"] = "error"
    own = deepcopy(config)
    own["data"]["offline"] = "stand_in"
    with pytest.raises(UserError, match="data=mnist: not found"):
        sample(config, own, (1, 28, 28), 10)


def test_random_images_do_where_nothing_can_be_had_and_are_called_so(composed):
    config = config_of("data=arrays", "data.path=/nowhere/x.npz")
    seen = sample(config, config, (1, 12, 12), 10)
    assert seen.images.shape == (1000, 1, 12, 12)
    assert seen.images.dtype == torch.uint8
    assert seen.words == "1,000 random images"
    assert seen.caution is not None
    assert seen.caution.startswith("the images of arrays are not here (")
    assert torch.equal(seen.images, sample(config, config, (1, 12, 12), 10).images)
    assert len(sample(config, config, (3, 1024, 1024), 10).images) == 16
    with pytest.raises(UserError, match=r"x\.npz"):  # they were typed
        sample(config, composed, (1, 12, 12), 10)


def test_typed_data_of_another_form_are_refused(composed):
    with pytest.raises(UserError, match="images of 1x12x12 in 10 classes; the checkpoint is for 3x8x8 in 2"):
        sample(composed, {**composed, "data": {}}, (3, 8, 8), 2)
