"""Validation comes out of the training images, class by class; the official test set stays apart."""

import torch
from torch import Tensor

from smallvision.errors import Refusal
from smallvision.randomness import stream


def stratified_split(labels: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Indices (train, validation), both sorted, of a split that keeps each class's share.

    ``labels``: int64, N. Validation gets exactly ``size`` images; a class's share is its fraction of
    ``size``, the fractions rounded by largest remainder. The draw is keyed by (seed, "split").

    Raises Refusal where ``size`` would leave nothing to train on.
    """
    total = len(labels)
    if size >= total:
        raise Refusal(
            f"data.val_size={size}: larger than the data, which has {total} training images;"
            f" use a value below {total}"
        )
    counts = torch.bincount(labels)
    exact = counts.double() * size / total
    share = exact.floor().long()
    by_remainder = torch.argsort(exact - share, descending=True, stable=True)
    share[by_remainder[: size - int(share.sum())]] += 1

    shuffled = torch.randperm(total, generator=stream(seed, "split"))
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    first = torch.cumsum(counts, 0) - counts
    rank = torch.arange(total) - torch.repeat_interleave(first, counts)
    held_out = rank < torch.repeat_interleave(share, counts)
    return by_class[~held_out].sort().values, by_class[held_out].sort().values
