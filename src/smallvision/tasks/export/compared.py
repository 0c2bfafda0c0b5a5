"""Whether an exported file computes what the network computes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smallvision.tasks.export.module import Standalone

LIMIT = 1e-5  # between two probabilities; float32 itself differs by 1e-7 from one order of sums to another
# Images at once, the last as often as there are more: that their number is free shows where it changes.
BATCHES = (1, 7, 248)

Runtime = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Agreement:
    """``difference``: the largest of any two probabilities; ``agreed``: of ``images``, those with the same
    predicted class; ``batches``: how many images went in at once.
    """

    difference: float
    agreed: int
    images: int
    batches: list[int]

    @property
    def close(self) -> bool:
        return self.difference <= LIMIT  # NaN is not


@torch.no_grad()
def compare(module: Standalone, runtime: Runtime, images: Tensor) -> Agreement:
    """``runtime`` against ``module`` itself, in eager float32, on ``images`` (uint8, N x C x H x W)."""
    batches: list[int] = []
    while (left := len(images) - sum(batches)) > 0:
        batches.append(min(left, BATCHES[min(len(batches), len(BATCHES) - 1)]))
    difference, agreed = torch.zeros(()), 0
    for batch in images.split(batches):
        ours, theirs = module(batch), runtime(batch)
        if theirs.shape != ours.shape or theirs.dtype != ours.dtype:
            return Agreement(math.inf, 0, len(images), batches)
        difference = torch.maximum(difference, (ours - theirs).abs().max())  # hands a NaN on
        agreed += int((ours.argmax(1) == theirs.argmax(1)).sum())
    return Agreement(difference.item(), agreed, len(images), batches)
