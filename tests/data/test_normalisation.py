"""Mean and standard deviation of each channel."""

import pytest
import torch

from smallvision.data import dataset as normalisation
from smallvision.data.dataset import mean_and_std


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (7, 3, 5, 4), (50, 4, 8, 8)])
@pytest.mark.parametrize("chunk", [1, 3, 4096])
def test_figures_are_those_of_all_pixels_however_they_are_summed(
    shape: tuple[int, ...], chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(normalisation, "CHUNK", chunk)
    images = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(1)).to(torch.uint8)
    pixels = images.double().transpose(0, 1).flatten(1) / 255
    mean, std = mean_and_std(images)
    assert mean == pytest.approx(pixels.mean(1).tolist(), rel=1e-9)
    assert std == pytest.approx(pixels.std(1, correction=0).tolist(), rel=1e-9)


@pytest.mark.parametrize("level", [0, 1, 100, 255])
def test_a_channel_without_variation_gets_a_deviation_of_one(level: int) -> None:
    images = torch.full((3, 2, 7, 7), level, dtype=torch.uint8)
    images[0, 1, 0, 0] = 128
    mean, std = mean_and_std(images)
    assert (mean[0], std[0]) == (level / 255, 1.0)
    assert 0 < std[1] < 1


def test_a_single_pixel_is_enough() -> None:
    assert mean_and_std(torch.full((1, 1, 1, 1), 51, dtype=torch.uint8)) == ([0.2], [1.0])
