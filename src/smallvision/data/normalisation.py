"""Mean and standard deviation of each channel."""

import torch
from torch import Tensor

CHUNK = 4096


def mean_and_std(images: Tensor) -> tuple[list[float], list[float]]:
    """Per channel over all pixels of ``images`` (uint8, N x C x H x W), as fractions of 255.

    A channel without any variation gets a standard deviation of 1.
    """
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    for chunk in images.split(CHUNK):
        pixels = chunk.transpose(0, 1).flatten(1).float()
        total += pixels.sum(1, dtype=torch.float64)
        squares += pixels.square().sum(1, dtype=torch.float64)
    count = images.numel() / images.shape[1]
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0)
    std = torch.where(variance > 0, variance.sqrt(), 255.0)
    return (mean / 255).tolist(), (std / 255).tolist()
