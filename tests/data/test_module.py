"""The data module: parts, normalisation and loaders of one data set."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from smallvision.core.errors import UserError
from smallvision.data.dataset import ImageDataset
from smallvision.data.module import ImageDataModule
from smallvision.data.shapes import shapes

DATASET = shapes(images=50, test_images=13, size=6, channels=3)


def module(dataset: ImageDataset = DATASET, **options: Any) -> ImageDataModule:
    defaults: dict[str, Any] = {"val_size": 10, "batch_size": 8, "eval_batch_size": 7, "seed": 0}
    return ImageDataModule(dataset, **{**defaults, **options})


def labels_of(batches: Any) -> list[int]:
    return [int(label) for _, labels in batches for label in labels]


def test_the_parts_have_the_sizes_asked_for_and_share_no_image() -> None:
    data = module()
    assert data.sizes == {"train": 40, "val": 10, "test": 13}
    assert not set(data.indices["train"].tolist()) & set(data.indices["val"].tolist())


def test_each_loader_gives_its_own_part() -> None:
    data = module()
    train, val = DATASET.train_labels[data.indices["train"]], DATASET.train_labels[data.indices["val"]]
    assert sorted(labels_of(data.train_dataloader())) == sorted(train.tolist())
    assert labels_of(data.val_dataloader()) == val.tolist()
    assert labels_of(data.test_dataloader()) == DATASET.test_labels.tolist()


def test_only_training_is_shuffled_and_augmented() -> None:
    data = module(flip=True, shift=2, cutout=2)
    assert data.train_dataloader().shuffle
    assert data.train_dataloader().augmentation
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert not loader.shuffle
        assert not loader.augmentation
    images = torch.cat([images for images, _ in data.test_dataloader()])
    assert torch.equal(images, DATASET.test_images)


def test_the_first_epochs_train_on_smaller_images_and_only_training_does() -> None:
    data = module(small_size=4, small_epochs=2, flip=True)
    loader = data.train_dataloader()
    sizes = [{tuple(images.shape[1:]) for images, _ in loader} for _ in range(3)]
    assert sizes == [{(3, 4, 4)}, {(3, 4, 4)}, {(3, 6, 6)}]
    assert {tuple(images.shape[1:]) for images, _ in data.val_dataloader()} == {(3, 6, 6)}
    loader.load_state_dict({"epoch": 1, "batch": 3})  # of a run that goes on within its second epoch
    assert [(images.dtype, tuple(images.shape[1:])) for images, _ in loader] == [(torch.uint8, (3, 4, 4))] * 2


def test_a_smaller_image_is_the_average_of_its_pixels_and_in_proportion() -> None:
    ramps = torch.arange(8, dtype=torch.uint8).mul(10).expand(50, 3, 4, 8).contiguous()
    wide = replace(DATASET, train_images=ramps, test_images=ramps[:13])
    data = module(wide, small_size=2, small_epochs=1)
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape[1:] == (3, 2, 4)
    assert images[0, 0].tolist() == [[7, 25, 45, 63]] * 2  # a triangle two new pixels wide, cut at the edge


def test_smaller_images_that_are_not_smaller_are_refused() -> None:
    assert module(small_size=6).small_size is None  # in no epoch
    with pytest.raises(UserError, match=r"progressive_resizing\.size=6: the images have only 6 pixels"):
        module(small_size=6, small_epochs=1)


def test_without_shuffle_training_images_come_in_their_stored_order() -> None:
    loader = module(shuffle=False, flip=True).train_dataloader()
    assert loader.augmentation
    assert loader.training
    labels = DATASET.train_labels[module().indices["train"]].tolist()
    assert [labels_of(loader) for _ in range(2)] == [labels, labels]


def test_an_empty_validation_set_is_an_empty_loader() -> None:
    data = module(val_size=0)
    assert data.sizes["train"] == 50
    assert list(data.val_dataloader()) == []


def test_an_empty_test_set_is_an_empty_loader() -> None:
    untested = replace(DATASET, test_images=DATASET.test_images[:0], test_labels=DATASET.test_labels[:0])
    assert list(module(untested).test_dataloader()) == []


def test_drop_last_applies_to_training_only() -> None:
    data = module(batch_size=32, drop_last=True)
    assert [len(labels) for _, labels in data.train_dataloader()] == [32]
    assert [len(labels) for _, labels in data.val_dataloader()] == [7, 3]


def test_a_validation_set_as_large_as_the_data_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.val_size=50"):
        module(val_size=50)


def test_mean_and_deviation_are_measured_on_the_training_part_alone() -> None:
    data = module()
    pixels = DATASET.train_images[data.indices["train"]].double() / 255
    assert data.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    assert data.std == pytest.approx(pixels.std((0, 2, 3), correction=0).tolist())


def test_a_mean_and_deviation_given_are_used_and_one_number_serves_all_channels() -> None:
    data = module(mean=[0.5], std=[0.1, 0.2, 0.3])
    assert data.mean == [0.5, 0.5, 0.5]
    assert data.std == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("key", ["mean", "std"])
def test_normalisation_for_another_number_of_channels_is_refused(key: str) -> None:
    with pytest.raises(UserError, match=rf"data\.normalisation\.{key}: 2 numbers for 3 channels"):
        module(**{"mean": [0.5], "std": [0.5], key: [0.1, 0.2]})


def test_a_stand_in_gives_at_most_a_tenth_to_validation_and_is_measured_itself() -> None:
    data = module(replace(DATASET, stand_in_for="cifar10"), val_size=5000, mean=[0.0], std=[1.0])
    assert data.sizes["val"] == 5
    assert data.mean == module(val_size=5).mean


def test_cutout_fills_with_the_mean_colour() -> None:
    assert module(cutout=2, mean=[0.0, 0.5, 1.0], std=[1.0]).augmentation.fill == (0, 128, 255)


def on_processes(data: ImageDataModule, rank: int, world_size: int) -> ImageDataModule:
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(strategy=strategy, global_rank=rank, world_size=world_size)  # type: ignore[assignment]
    return data


def test_each_process_takes_its_part_of_every_batch() -> None:
    ranks = [on_processes(module(), rank, 2) for rank in range(2)]
    batches = [[len(labels) for _, labels in data.train_dataloader()] for data in ranks]
    assert batches == [[4] * 5, [4] * 5]
    together = [label for data in ranks for label in labels_of(data.test_dataloader())]
    assert sorted(together) == sorted(DATASET.test_labels.tolist())


def test_a_batch_size_that_the_processes_cannot_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"data\.batch_size=8: must be a multiple of the 3 processes"):
        on_processes(module(), 0, 3).train_dataloader()


def test_the_images_are_put_on_the_device_once() -> None:
    data = module()
    assert data.train_dataloader().images is data.val_dataloader().images


class Recorder(pl.LightningModule):
    """Anybody's LightningModule: it knows nothing of the loader and keeps the labels that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[list[int]] = []

    def on_train_epoch_start(self) -> None:
        self.seen.append([])

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.seen[-1] += batch[1].tolist()
        return self.layer(batch[0].float().mean().view(1, 1)).sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def test_any_lightning_module_gets_the_batches_of_each_epoch() -> None:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", enable_model_summary=False, **quiet)
    recorder = Recorder()
    trainer.fit(recorder, datamodule=module())
    loader = module().train_dataloader()
    assert recorder.seen == [labels_of(loader) for _ in range(3)]
    assert recorder.seen[0] != recorder.seen[1]
