"""A saliency map shows which pixels a class depends on."""

import torch
from torch import nn

from smallvision.tasks.predict import saliency
from smallvision.training.model_spec import ModelSpec
from smallvision.training.predictor import Predictor


class OnePixel(nn.Module):
    """The logit of class 1 is one pixel squared, that of class 0 does not depend on the image."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        seen = images[:, :, 2, 3].square().sum(1)
        return torch.stack([0 * seen, seen], 1)


def predictor(network: nn.Module, channels: int = 1) -> Predictor:
    spec = ModelSpec({}, (channels, 6, 5), ["a", "b"], [0.5] * channels, [0.5] * channels)
    return Predictor(spec, network).eval()


def test_it_shows_the_pixels_that_the_class_depends_on_and_no_others() -> None:
    for channels in (1, 3):
        image = torch.full((channels, 6, 5), 200, dtype=torch.uint8)
        image[:, 0, 0] = 0
        heat = saliency(predictor(OnePixel(), channels), image, 1, seed=0, number=0)
        assert heat.shape == (6, 5)
        assert heat[2, 3] == 1
        assert heat.sum() == 1
        assert saliency(predictor(OnePixel(), channels), image, 0, seed=0, number=0).sum() == 0


def test_the_noise_depends_on_seed_and_number_alone() -> None:
    image = torch.arange(30, dtype=torch.uint8).view(1, 6, 5)
    raw = []
    for seed, number in ((0, 0), (0, 0), (0, 1), (1, 0)):
        torch.manual_seed(len(raw))
        network = nn.Sequential(nn.Flatten(), nn.Linear(30, 4), nn.Tanh(), nn.Linear(4, 2))
        network.load_state_dict(
            {k: torch.linspace(-1, 1, v.numel()).view(v.shape) for k, v in network.state_dict().items()}
        )
        raw.append(saliency(predictor(network), image, 1, seed, number))
    assert (raw[0] == raw[1]).all()
    assert (raw[0] != raw[2]).any()
    assert (raw[0] != raw[3]).any()


def test_an_even_image_has_a_map_too() -> None:
    assert saliency(predictor(OnePixel()), torch.zeros((1, 6, 5), dtype=torch.uint8), 1, 0, 0)[2, 3] == 1
