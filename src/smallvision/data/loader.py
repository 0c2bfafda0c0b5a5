"""Batches by index from arrays that lie on the training device; no workers, no per-image Python."""

from collections.abc import Iterator

import torch
from torch import Tensor

from smallvision.core.rng import stream
from smallvision.data.augmentation import Augmentation

Batch = tuple[Tensor, Tensor]


class BatchLoader:
    """An epoch of batches ``(images uint8 N x C x H x W, labels int64 N)``.

    ``indices`` chooses the images, in order. With ``shuffle`` another order is drawn for each epoch from
    (seed, "order", epoch); each batch's augmentation is drawn from (seed, "augmentation", epoch, batch):
    batch k of epoch e is the same whether the run came there from the start or from a checkpoint, and on
    however many processes.

    ``batch_size`` counts the images of one optimizer step over all processes. Process ``rank`` of
    ``world`` takes every ``world``-th image of each batch, so the processes together see just what one
    would. In training (``trains``, which ``shuffle`` implies) the processes' parts are equal: what a last
    batch has beyond a multiple of ``world`` is left out.

    The position (``epoch``, ``batch``: the next batch to be given) is the loader's whole state; only training
    goes on from where it was.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        *,
        batch_size: int,
        seed: int = 0,
        trains: bool = False,
        shuffle: bool = False,
        drop_last: bool = False,
        augmentation: Augmentation | None = None,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> None:
        self.images, self.labels, self.indices = images, labels, indices
        self.batch_size, self.seed = batch_size, seed
        self.trains, self.shuffle, self.augmentation = trains or shuffle, shuffle, augmentation
        self.rank, self.world = rank, world
        self.device = torch.device(device)
        self.epoch = self.batch = 0
        # By the image: with half an epoch's number added it changes sides at every epoch.
        if augmentation and augmentation.flip == "alternating":
            self.flips = torch.rand(len(images), generator=stream(seed, "flip")).to(self.device)
        last = len(indices) % batch_size
        short = last > 0 and (drop_last or (self.trains and last < world))
        self.batches = len(indices) // batch_size + (last > 0 and not short)

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return self.batches

    @property
    def sizes(self) -> list[int]:
        """Images in a training batch of this process: one number, or two where the last batch is smaller."""
        last = len(self.indices) - (self.batches - 1) * self.batch_size
        return sorted({min(count, self.batch_size) // self.world for count in (self.batch_size, last)})

    def __iter__(self) -> Iterator[Batch]:
        """From the present position to the end of the epoch; the position then starts the next.

        Where it does not train, every iteration starts at the first batch.
        """
        if not self.trains:
            self.batch = 0
        order = self._order()
        while self.batch < self.batches:
            start = self.batch * self.batch_size
            chosen = order[start : start + self.batch_size]
            batch = self._gather(chosen, self.batch)
            self.batch += 1
            yield batch
        self.epoch, self.batch = self.epoch + 1, 0

    def start_epoch(self, epoch: int) -> None:
        """Go to the first batch of that epoch."""
        self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.epoch, "batch": self.batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.epoch, self.batch = state["epoch"], state["batch"]

    def _order(self) -> Tensor:
        order = self.indices
        if self.shuffle:
            # Drawn on the CPU, so that every device trains in the same order.
            order = order[torch.randperm(len(order), generator=stream(self.seed, "order", self.epoch))]
        return order.to(self.images.device)

    def _gather(self, chosen: Tensor, batch: int) -> Batch:
        count = len(chosen)
        if self.trains:
            chosen = chosen[: count // self.world * self.world]
        mine = chosen[self.rank :: self.world]
        images, labels = self.images[mine], self.labels[mine]
        if images.device != self.device:
            images, labels = images.to(self.device), labels.to(self.device)
        if self.augmentation:
            generator = stream(self.seed, "augmentation", self.epoch, batch, device=self.device)
            draws = self.augmentation.draw(count, generator)[: len(chosen)]
            if self.augmentation.flip == "alternating":
                draws[:, 0] = (self.flips[chosen.to(self.device)] + self.epoch % 2 / 2) % 1
            images = self.augmentation(images, draws[self.rank :: self.world])
        return images, labels
