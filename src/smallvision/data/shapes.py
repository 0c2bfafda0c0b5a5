"""`data=shapes`: generated images, of any size, number of channels, classes and difficulty."""

import math

import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.core.rng import stream
from smallvision.data.dataset import Arrays, ImageDataset

OUTLINES = (
    "disc", "square", "triangle", "ring", "cross", "bar", "half disc", "star", "crescent", "frame",
)  # fmt: skip
FILLS = (
    "plain", "striped", "dotted", "checked", "split", "fine-striped", "fine-dotted", "fine-checked",
    "quartered", "gridded",
)  # fmt: skip
CHUNK = 1024  # images generated at once: a few megabytes of coordinates


def class_name(index: int) -> str:
    """Classes 0 to 9 are plain outlines; each further ten have another fill."""
    fill = FILLS[index // len(OUTLINES)]
    outline = OUTLINES[index % len(OUTLINES)]
    return outline if fill == "plain" else f"{fill} {outline}"


def shapes(
    images: int = 10_000,
    test_images: int = 2_000,
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
    difficulty: float = 0.5,
    seed: int = 0,
) -> ImageDataset:
    """Shapes at random positions, sizes and angles on a noisy background.

    ``difficulty`` in [0, 1] widens the ranges of position, size and angle, lowers the contrast and raises the
    noise. Classes differ by at most one in their number of images. The same arguments give the same bytes.
    """
    if classes > len(OUTLINES) * len(FILLS):
        raise UserError(f"data.classes={classes}: shapes has at most {len(OUTLINES) * len(FILLS)}")
    parts: list[Tensor] = []
    for purpose, count in (("train", images), ("test", test_images)):
        labels = torch.arange(count) % classes
        labels = labels[torch.randperm(count, generator=stream(seed, f"shapes/{purpose}"))]
        generated = torch.empty((count, channels, size, size), dtype=torch.uint8)
        for chunk, start in enumerate(range(0, count, CHUNK)):
            generator = stream(seed, f"shapes/{purpose}/{size}x{channels}", chunk)
            part = slice(start, start + CHUNK)
            generated[part] = _generate(labels[part], size, channels, difficulty, generator)
        parts += [generated, labels]
    source = f"generated: {classes} classes, difficulty {difficulty:g}, seed {seed}"
    return ImageDataset("shapes", source, [class_name(index) for index in range(classes)], *Arrays(*parts))


def _generate(labels: Tensor, size: int, channels: int, difficulty: float, generator: torch.Generator) -> Tensor:
    """``labels``: N. Gives uint8, N x C x size x size."""
    one = (len(labels), 1, 1)  # a number for each image

    # Each pixel in the shape's own coordinates, where the shape fills the unit disc.
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    reach = 0.1 + 0.25 * difficulty
    dx = axis[None, None, :] - _uniform(-reach, reach, one, generator)
    dy = axis[None, :, None] - _uniform(-reach, reach, one, generator)
    angle = _uniform(-1, 1, one, generator) * (math.pi / 12 + math.pi / 6 * difficulty)
    radius = _uniform(0.6 - 0.25 * difficulty, 0.65, one, generator)
    x = (dx * angle.cos() + dy * angle.sin()) / radius
    y = (dy * angle.cos() - dx * angle.sin()) / radius

    # The signed distance (negative inside) becomes coverage, anti-aliased over one pixel.
    pixel = 2 / (size * radius)
    images = torch.arange(len(labels))
    outline = torch.stack(_outlines(x, y))[labels % len(OUTLINES), images]
    coverage = (0.5 - outline / pixel).clamp(0, 1)
    fill = torch.stack(_fills(x, y))[labels // len(OUTLINES), images]
    contrast = _uniform(0.9 - 0.5 * difficulty, 0.95, (*one, 1), generator)
    background = _uniform(0, 1, (len(labels), channels, 1, 1), generator) * (1 - contrast)
    foreground = background + contrast
    image = background + (foreground - background) * (coverage * fill).unsqueeze(1)
    inverted = torch.rand((*one, 1), generator=generator) < 0.5 * (difficulty >= 0.5)
    image = torch.where(inverted, 1 - image, image)
    noise = torch.randn(image.shape, generator=generator) * (0.02 + 0.16 * difficulty)
    return (image + noise).clamp(0, 1).mul(255).round().to(torch.uint8)


def _uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator) * (high - low) + low


def _outlines(x: Tensor, y: Tensor) -> list[Tensor]:
    """Signed distances in the order of OUTLINES; the usual two-dimensional primitives."""
    r = (x.square() + y.square()).sqrt()
    box = torch.maximum(x.abs(), y.abs()) - 0.75
    triangle = torch.maximum(x.abs() * 0.866 - y * 0.5, y) - 0.5
    bar = torch.maximum(x.abs() - 0.95, y.abs() - 0.3)
    star = r - (0.65 + 0.3 * torch.cos(5 * torch.atan2(x, -y)))
    bite = 0.75 - ((x - 0.5).square() + y.square()).sqrt()
    return [
        r - 0.85,
        box,
        triangle,
        (r - 0.7).abs() - 0.2,
        torch.minimum(bar, torch.maximum(y.abs() - 0.95, x.abs() - 0.3)),
        bar,
        torch.maximum(r - 0.95, y),
        star,
        torch.maximum(r - 0.9, bite),
        (box + 0.1).abs() - 0.15,
    ]


def _fills(x: Tensor, y: Tensor) -> list[Tensor]:
    """Brightness of the foreground in the order of FILLS, in [0.15, 1]."""
    grid = torch.minimum(torch.sin(math.pi * 4 * x).abs(), torch.sin(math.pi * 4 * y).abs()) - 0.4
    patterns = [torch.ones_like(x), *_waves(x, y, 2.5), x, *_waves(x, y, 5.0), x * y, grid]
    return [(pattern * 8).clamp(-1, 1) * 0.425 + 0.575 for pattern in patterns]


def _waves(x: Tensor, y: Tensor, cycles: float) -> list[Tensor]:
    """Stripes, dots and a checkerboard of so many cycles."""
    across, down = torch.sin(math.pi * cycles * x), torch.sin(math.pi * cycles * y)
    return [down, across + down - 0.6, across * down]
