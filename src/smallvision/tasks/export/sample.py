"""The images that an exported file is compared on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.core.rng import stream
from smallvision.training.factory import by, make_data

MOST_IMAGES, LEAST_IMAGES = 1_000, 16
MOST_NUMBERS = 12_000_000  # in all of them: large ones are fewer


@dataclass(frozen=True)
class Sample:
    """``images``: uint8, N x C x H x W; ``words``: what they are; ``caution``: why they are not the test
    images of the data that were named, None where they are.
    """

    images: Tensor
    words: str
    caution: str | None = None


def sample(config: Config, own: dict[str, Any], shape: tuple[int, int, int], classes: int) -> Sample:
    """Test images of the data of ``config``, or, where none can be had, the next best thing.

    ``own``: the network's own config. Raises UserError where data were typed that cannot be had or do not fit.
    """
    count = min(MOST_IMAGES, max(LEAST_IMAGES, MOST_NUMBERS // (shape[0] * shape[1] * shape[2])))
    typed = any(config[key] != own.get(key) for key in ("data", "data_dir"))
    name = config["data"]["name"]
    try:
        record = make_data(config).dataset
        if record.shape != shape or len(record.classes) != classes:
            raise UserError(
                f"data={name}: images of {by(record.shape)} in {len(record.classes)} classes; the checkpoint"
                f" is for {by(shape)} in {classes}"
            )
    except UserError as refusal:
        if typed:
            raise
        images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=stream(config["seed"], "export"))
        return Sample(images, f"{count:,} random images", f"the images of {name} are not here ({refusal})")
    part, images = "test", record.test_images[:count]
    if not len(images):
        part, images = "training", record.train_images[:count]
    words = f"{len(images):,} {part} images of {record.name}"
    if record.stand_in_for is not None:
        return Sample(
            images,
            f"{words}, a stand-in for {record.stand_in_for}",
            f"these images are not {record.stand_in_for} ({record.source})",
        )
    return Sample(images, words)
