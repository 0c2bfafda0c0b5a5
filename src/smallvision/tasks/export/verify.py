"""Whether an exported file computes what the network computes, and the images that this is checked on."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.core.rng import stream
from smallvision.training.factory import make_data
from smallvision.training.model_spec import ModelSpec, shape_str
from smallvision.training.predictor import Predictor

LIMIT = 1e-5  # between two probabilities; summing in another order already changes float32 by 1e-7
# Sizes of the batches, the last one repeated: a file that fixes the number of images fails at the second batch.
BATCHES = (1, 7, 248)
MIN_IMAGES, MAX_IMAGES = 16, 1_000
MAX_NUMBERS = 12_000_000  # in all images: of large images there are fewer

Runtime = Callable[[Tensor], Tensor]  # images (uint8, N x C x H x W) become probabilities (float32, N x classes)


@dataclass(frozen=True)
class TestImages:
    """``images``: uint8, N x C x H x W; ``caution``: why they are not test images of the chosen data, None where
    they are.
    """

    __test__ = False

    images: Tensor
    description: str
    caution: str | None = None


def find_images(config: Config, spec: ModelSpec, chosen: bool) -> TestImages:
    """Test images of ``config.data``; where there are none, training images; where the data are missing, noise.

    ``chosen``: whether the data are the user's choice and not the checkpoint's own. Such data are not replaced:
    raises UserError where they are missing or of another shape.
    """
    name = config.data.name
    count = min(MAX_IMAGES, max(MIN_IMAGES, MAX_NUMBERS // math.prod(spec.shape)))
    try:
        dataset = make_data(config).dataset
        if dataset.shape != spec.shape or len(dataset.classes) != len(spec.classes):
            raise UserError(
                f"data={name}: images of {shape_str(dataset.shape)} in {len(dataset.classes)} classes;"
                f" the checkpoint is for {shape_str(spec.shape)} in {len(spec.classes)}"
            )
    except UserError as error:
        if chosen:
            raise
        noise = stream(config.seed, "export")
        images = torch.randint(0, 256, (count, *spec.shape), dtype=torch.uint8, generator=noise)
        return TestImages(images, f"{count:,} random images", f"the images of {name} are missing ({error})")
    part, images = "test", dataset.test_images[:count]
    if not len(images):
        part, images = "training", dataset.train_images[:count]
    description = f"{len(images):,} {part} images of {dataset.name}"
    if dataset.stand_in_for is None:
        return TestImages(images, description)
    caution = f"these images are not {dataset.stand_in_for} ({dataset.source})"
    return TestImages(images, f"{description}, a stand-in for {dataset.stand_in_for}", caution)


@dataclass(frozen=True)
class Agreement:
    """``difference``: the largest between two probabilities; ``agreed``: how many of ``images`` get the same
    class; ``batches``: the sizes of the batches.
    """

    difference: float
    agreed: int
    images: int
    batches: list[int]


@torch.no_grad()
def compare(predictor: Predictor, runtime: Runtime, images: Tensor) -> Agreement:
    """``runtime`` with the ``predictor`` itself, in eager float32 on the CPU."""
    batches: list[int] = []
    while (left := len(images) - sum(batches)) > 0:
        batches.append(min(left, BATCHES[min(len(batches), len(BATCHES) - 1)]))
    difference, agreed = torch.zeros(()), 0
    for batch in images.split(batches):
        expected, found = predictor(batch), runtime(batch)
        if found.shape != expected.shape or found.dtype != expected.dtype:
            return Agreement(math.inf, 0, len(images), batches)
        difference = torch.maximum(difference, (expected - found).abs().max())  # NaN if either is
        agreed += int((expected.argmax(1) == found.argmax(1)).sum())
    return Agreement(difference.item(), agreed, len(images), batches)


def verify(file: str, runtime_name: str, agreement: Agreement) -> None:
    """Raise UserError where the probabilities differ by more than ``LIMIT``, or are NaN."""
    if math.isnan(agreement.difference):
        raise UserError(f"{file}: not kept: the network's probabilities are NaN; its training diverged")
    if agreement.difference > LIMIT:
        raise UserError(
            f"{file}: not kept: on {agreement.images:,} images its probabilities in {runtime_name} differ from the"
            f" network's by up to {agreement.difference:.3g}; {LIMIT:g} is allowed"
            f" ({agreement.agreed:,} predicted classes agree)"
        )
