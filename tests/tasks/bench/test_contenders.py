"""The contenders of a benchmark train on the same numbers and are timed alike."""

import pytest
import torch

from smallvision.data.module import ImageDataModule
from smallvision.data.shapes import shapes
from smallvision.tasks.bench.contenders import Clock, Speed, float_images, per_image_dataset
from smallvision.training.layers import Normalise


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pipeline_feeds_the_network_the_same_numbers(channels):
    dataset = shapes(images=40, test_images=0, size=12, channels=channels)
    data = ImageDataModule(dataset, val_size=8, batch_size=16, eval_batch_size=16, seed=0)
    ours = Normalise(data.mean, data.std)(dataset.train_images[data.indices["train"]])
    by_hand, labels = float_images(data, channels_last=False)
    per_image = per_image_dataset(data)
    one_by_one = torch.stack([per_image[index][0] for index in range(len(per_image))])
    torch.testing.assert_close(by_hand, ours)
    torch.testing.assert_close(one_by_one, ours)
    assert [per_image[index][1] for index in range(32)] == labels.tolist()


def test_the_clock_leaves_the_warm_up_out_and_stops_when_its_time_is_over():
    clock = Clock(0.0, torch.device("cpu"))
    assert [clock.step(10) for _ in range(6)] == [False] * 5 + [True]
    assert clock.images == 10
    assert clock.rate == clock.images / clock.elapsed


def test_ratios_are_medians_over_rounds_not_ratios_of_medians():
    ours = [10.0, 100.0, 30.0]
    other = Speed.of([5.0, 10.0, 30.0], ours)
    assert other.ours_is == pytest.approx(2.0)
    assert (other.images_per_second, other.low, other.high) == (10, 5, 30)
    assert Speed.of(ours, ours).ours_is == 1
