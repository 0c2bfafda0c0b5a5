"""Batches by index from images that lie on the training device: no workers, no per-image Python."""

from collections.abc import Iterator

import torch
from torch import Tensor

from smallvision.core.rng import stream
from smallvision.data.augmentation import Augmentation

Batch = tuple[Tensor, Tensor]


class BatchLoader:
    """An epoch of batches ``(images uint8 N x C x H x W, labels int64 N)``.

    ``indices`` selects the images, in order. With ``shuffle`` each epoch has an order of its own, from the
    stream (seed, "order", epoch); each batch is augmented from the stream (seed, "augmentation", epoch, batch).
    So batch k of epoch e is the same in a run from the start, in a resumed one, and on any number of processes.

    ``batch_size`` counts the images of one optimizer step over all processes; process ``rank`` of
    ``world_size`` takes every ``world_size``-th image of each batch. In ``training``, which ``shuffle``
    implies, every process gets as many: the remainder of the last batch is dropped.

    The state is the position of the next batch, ``epoch`` and ``batch``. Only a training loader goes on from
    there; any other starts at its first batch.
    """

    batch_sampler = None  # Lightning asks for it where there is a sampler

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        training: bool = False,
        shuffle: bool = False,
        drop_last: bool = False,
        augmentation: Augmentation | None = None,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.labels, self.indices = images, labels, indices
        self.batch_size, self.seed = batch_size, seed
        self.training, self.shuffle, self.augmentation = training or shuffle, shuffle, augmentation
        self.rank, self.world_size = rank, world_size
        self.device = torch.device(device)
        self.epoch = self.batch = 0
        if augmentation and augmentation.flip == "alternating":
            # One uniform an image; adding 1/2 in every other epoch takes it to the other side of 1/2.
            self.flips = torch.rand(len(images), generator=stream(seed, "flip")).to(self.device)
        last = len(indices) % batch_size
        dropped = drop_last or (self.training and last < world_size)
        self.batches = len(indices) // batch_size + (last > 0 and not dropped)

    def __len__(self) -> int:
        """Batches in an epoch."""
        return self.batches

    @property
    def sizes(self) -> list[int]:
        """The sizes of this process's training batches: one, or two where the last batch is smaller."""
        last = len(self.indices) - (self.batches - 1) * self.batch_size
        return sorted({min(count, self.batch_size) // self.world_size for count in (self.batch_size, last)})

    def __iter__(self) -> Iterator[Batch]:
        """From the current position to the end of the epoch; the position is then the start of the next."""
        if not self.training:
            self.batch = 0
        order = self._order()
        while self.batch < self.batches:
            start = self.batch * self.batch_size
            batch = self._gather(order[start : start + self.batch_size])
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def start_epoch(self, epoch: int) -> None:
        """Go to the first batch of that epoch."""
        self.epoch, self.batch = epoch, 0

    @property
    def sampler(self) -> "BatchLoader":
        """Itself: Lightning calls ``sampler.set_epoch`` before each epoch, whatever the LightningModule."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Go to the first batch of another epoch; a position within ``epoch`` is kept."""
        if epoch != self.epoch:
            self.start_epoch(epoch)

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]

    def _order(self) -> Tensor:
        order = self.indices
        if self.shuffle:
            # Drawn on the CPU, so that training takes the same order on every device.
            order = order[torch.randperm(len(order), generator=stream(self.seed, "order", self.epoch))]
        return order.to(self.images.device)

    def _gather(self, chosen: Tensor) -> Batch:
        """This process's part of the images ``chosen`` for the step, augmented and on the device."""
        count = len(chosen)
        if self.training:
            chosen = chosen[: count // self.world_size * self.world_size]
        local = chosen[self.rank :: self.world_size]
        images, labels = self.images[local], self.labels[local]
        if images.device != self.device:
            images, labels = images.to(self.device), labels.to(self.device)
        if self.augmentation:
            generator = stream(self.seed, "augmentation", self.epoch, self.batch, device=self.device)
            uniforms = self.augmentation.draw(count, generator)[: len(chosen)]
            if self.augmentation.flip == "alternating":
                uniforms[:, 0] = (self.flips[chosen.to(self.device)] + self.epoch % 2 / 2) % 1
            images = self.augmentation(images, uniforms[self.rank :: self.world_size])
        return images, labels
