"""The data module: splits a data set and serves batches on the training device."""

from typing import Literal

import lightning.pytorch as pl
import torch
from torch import Tensor

from smallvision.core.errors import UserError
from smallvision.data.dataset import ImageDataset, chunks, mean_and_std, stratified_split, validation_size
from smallvision.data.loader import Augmentation, Batch, BatchLoader

Part = Literal["train", "val", "test"]


class ImageDataModule(pl.LightningDataModule):
    """Training, validation and test batches of one :class:`ImageDataset`, for any LightningModule.

    Batches are (images uint8 N x C x H x W, labels int64 N) on the training device; the LightningModule
    normalises images by ``mean`` and ``std``.

    ``val_size`` training images (a number, a fraction, or None: a tenth) are held out for validation, stratified, by
    the stream (seed, "split"). ``mean`` and ``std`` (a number per channel, or one for all, as fractions of 255) are
    measured on the rest unless given. A stand-in gives at most a tenth to validation, as it is smaller than what it
    replaces, and its own statistics are measured. The other arguments are those of :class:`BatchLoader` and
    :class:`Augmentation`.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        val_size: float | None,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        drop_last: bool = False,
        shuffle: bool = True,
        flip: bool | Literal["alternating"] = False,
        shift: int = 0,
        cutout: int = 0,
        rotate: float = 0.0,
        scale: float = 0.0,
        small_size: int = 0,
        small_epochs: int = 0,
        mean: list[float] | None = None,
        std: list[float] | None = None,
    ) -> None:
        super().__init__()
        self.dataset, self.seed, self.drop_last, self.shuffle = dataset, seed, drop_last, shuffle
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        size = validation_size(dataset.train_labels, val_size)
        if dataset.stand_in_for is not None:
            size = min(size, len(dataset.train_labels) // 10)
            mean = std = None
        train, val = stratified_split(dataset.train_labels, size, seed, each_class=not isinstance(val_size, int))
        test = torch.arange(len(dataset.test_labels))
        self.indices: dict[Part, Tensor] = {"train": train, "val": val, "test": test}
        self.mean, self.std = self._normalisation(mean, std)
        fill = tuple(round(255 * value) for value in self.mean)
        self.augmentation = Augmentation(flip, shift, cutout, rotate, scale, fill)
        height, width = dataset.shape[1:]
        resized = bool(small_size and small_epochs)
        if resized and small_size >= height:
            raise UserError(f"data.progressive_resizing.size={small_size}: the images have only {height} pixels")
        self.small_size = (small_size, round(width * small_size / height)) if resized else None
        self.small_epochs = small_epochs
        self._resident: dict[str, tuple[Tensor, Tensor]] = {}

    def _normalisation(self, mean: list[float] | None, std: list[float] | None) -> tuple[list[float], list[float]]:
        if mean is None or std is None:
            return mean_and_std(self.dataset.train_images, self.indices["train"], self.dataset.sums)
        channels = self.dataset.shape[0]
        for key, values in (("mean", mean), ("std", std)):
            if len(values) not in (1, channels):
                raise UserError(f"data.normalisation.{key}: {len(values)} numbers for {channels} channels")
        return [*mean] * (channels // len(mean)), [*std] * (channels // len(std))

    @property
    def sizes(self) -> dict[Part, int]:
        """Images in each part."""
        return {part: len(indices) for part, indices in self.indices.items()}

    @property
    def batches(self) -> dict[Part, int]:
        """Batches in an epoch of each part."""
        counts = {part: -(-size // self.eval_batch_size) for part, size in self.sizes.items()}
        train = self.sizes["train"]
        counts["train"] = train // self.batch_size if self.drop_last else -(-train // self.batch_size)
        return counts

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train")

    def val_dataloader(self) -> BatchLoader:
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self._loader("test")

    def _loader(self, part: Part) -> BatchLoader:
        device, rank, world_size = torch.device("cpu"), 0, 1
        if self.trainer is not None:
            device = self.trainer.strategy.root_device
            rank, world_size = self.trainer.global_rank, self.trainer.world_size
        if self.batch_size % world_size:
            raise UserError(f"data.batch_size={self.batch_size}: must be a multiple of the {world_size} processes")
        images, labels = self._on(device, "test" if part == "test" else "train")
        training = part == "train"
        return BatchLoader(
            images,
            labels,
            self.indices[part],
            batch_size=self.batch_size if training else self.eval_batch_size,
            seed=self.seed,
            training=training,
            shuffle=training and self.shuffle,
            drop_last=training and self.drop_last,
            augmentation=self.augmentation if training else None,
            small_size=self.small_size,
            small_epochs=self.small_epochs if training else 0,
            rank=rank,
            world_size=world_size,
            device=device,
        )

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """The loader's batches are there already."""
        return batch

    def _on(self, device: torch.device, part: Literal["train", "test"]) -> tuple[Tensor, Tensor]:
        """The images and labels, on ``device`` where they take less than half of its free memory."""
        images, labels = getattr(self.dataset, f"{part}_images"), getattr(self.dataset, f"{part}_labels")
        if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
            return images, labels
        if part not in self._resident:
            moved = images if images.device == device else torch.cat([chunk.to(device) for chunk in chunks(images)])
            self._resident[part] = moved, labels.to(device)
        return self._resident[part]
