"""`data=shapes`: pictures drawn by this file, of any size, number of channels, classes and difficulty."""

import math

import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.core.rng import stream
from smallvision.data.dataset import ImageDataset

OUTLINES = (
    "disc", "square", "triangle", "ring", "cross", "bar", "half disc", "star", "crescent", "frame",
)  # fmt: skip
FILLS = (
    "plain", "striped", "dotted", "checked", "split", "fine-striped", "fine-dotted", "fine-checked",
    "quartered", "gridded",
)  # fmt: skip
CHUNK = 1024  # images drawn at once: a few megabytes of coordinates


def class_name(index: int) -> str:
    """Classes 0 to 9 are plain outlines; every further ten wear another fill."""
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
    """Shapes at random places, sizes and angles on a noisy ground.

    ``difficulty`` in [0, 1] widens the range of places, sizes and angles, lowers the contrast and raises
    the noise. Every class has as many images as the next, give or take one. The same arguments give the
    same bytes.
    """
    if classes > len(OUTLINES) * len(FILLS):
        raise UserError(f"data.classes={classes}: shapes has at most {len(OUTLINES) * len(FILLS)}")
    parts: list[Tensor] = []
    for purpose, count in (("train", images), ("test", test_images)):
        labels = torch.arange(count) % classes
        labels = labels[torch.randperm(count, generator=stream(seed, f"shapes/{purpose}"))]
        drawn = torch.empty((count, channels, size, size), dtype=torch.uint8)
        for chunk, start in enumerate(range(0, count, CHUNK)):
            generator = stream(seed, f"shapes/{purpose}/{size}x{channels}", chunk)
            part = labels[start : start + CHUNK]
            drawn[start : start + CHUNK] = _draw(part, size, channels, difficulty, generator)
        parts += [drawn, labels]
    return ImageDataset(
        name="shapes",
        source=f"drawn here: {classes} classes, difficulty {difficulty:g}, seed {seed}",
        classes=[class_name(index) for index in range(classes)],
        train_images=parts[0],
        train_labels=parts[1],
        test_images=parts[2],
        test_labels=parts[3],
    )


def _draw(labels: Tensor, size: int, channels: int, difficulty: float, generator: torch.Generator) -> Tensor:
    """N labels become N x C x size x size uint8."""
    count = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand((count, *(shape or (1, 1))), generator=generator) * (high - low) + low

    # Each pixel's place in the shape's own frame, where the shape fills the unit disc.
    axis = (torch.arange(size) + 0.5) / size * 2 - 1
    away = 0.1 + 0.25 * difficulty
    dx, dy = axis[None, None, :] - uniform(-away, away), axis[None, :, None] - uniform(-away, away)
    angle = uniform(-1, 1) * (math.pi / 12 + math.pi / 6 * difficulty)
    radius = uniform(0.6 - 0.25 * difficulty, 0.65)
    x = (dx * angle.cos() + dy * angle.sin()) / radius
    y = (dy * angle.cos() - dx * angle.sin()) / radius

    # Signed distance (inside is negative) becomes coverage, one pixel soft: no jagged edges.
    soft = 2 / (size * radius)
    outline = _select(labels % len(OUTLINES), _outlines(x, y))
    coverage = (0.5 - outline / soft).clamp(0, 1)
    fill = _select(labels // len(OUTLINES), _fills(x, y))
    contrast = uniform(0.9 - 0.5 * difficulty, 0.95, 1, 1, 1)
    ground = uniform(0, 1, channels, 1, 1) * (1 - contrast)
    ink = ground + contrast
    picture = ground + (ink - ground) * (coverage * fill).unsqueeze(1)
    inverted = torch.rand((count, 1, 1, 1), generator=generator) < 0.5 * (difficulty >= 0.5)
    picture = torch.where(inverted, 1 - picture, picture)
    noise = torch.randn(picture.shape, generator=generator) * (0.02 + 0.16 * difficulty)
    return (picture + noise).clamp(0, 1).mul(255).round().to(torch.uint8)


def _select(index: Tensor, planes: list[Tensor]) -> Tensor:
    chosen = planes[0]
    for number, plane in enumerate(planes[1:], start=1):
        chosen = torch.where((index == number)[:, None, None], plane, chosen)
    return chosen


def _outlines(x: Tensor, y: Tensor) -> list[Tensor]:
    """Signed distances in the order of OUTLINES; inspired by the usual two-dimensional primitives."""
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
    """Brightness of the ink in the order of FILLS, in [0.15, 1]."""

    def wave(t: Tensor, cycles: float) -> Tensor:
        return torch.sin(math.pi * cycles * t)

    patterns = [torch.ones_like(x)]
    for cycles in (2.5, 5.0):
        patterns += [
            wave(y, cycles),
            wave(x, cycles) + wave(y, cycles) - 0.6,
            wave(x, cycles) * wave(y, cycles),
        ]
    striped, dotted, checked, fine_striped, fine_dotted, fine_checked = patterns[1:]
    ordered = [
        patterns[0], striped, dotted, checked, x, fine_striped, fine_dotted, fine_checked,
        x * y, torch.minimum(wave(x, 4).abs(), wave(y, 4).abs()) - 0.4,
    ]  # fmt: skip
    return [(pattern * 8).clamp(-1, 1) * 0.425 + 0.575 for pattern in ordered]
