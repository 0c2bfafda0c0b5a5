"""The contenders of a benchmark do the same work on the same numbers."""

import pytest
import torch

from smallvision.data.module import ImageDataModule
from smallvision.data.shapes import shapes
from smallvision.tasks.bench.classic import _per_image
from smallvision.tasks.bench.clock import Clock
from smallvision.tasks.bench.pipelines import _floats
from smallvision.training.layers import Normalise


@pytest.mark.parametrize("channels", [1, 3])
def test_every_pipeline_feeds_the_network_the_same_numbers(channels):
    record = shapes(images=40, test_images=0, size=12, channels=channels)
    data = ImageDataModule(record, val_size=8, batch_size=16, eval_batch_size=16, seed=0)
    ours = Normalise(data.mean, data.std)(record.train_images[data.indices["train"]])
    by_hand, labels = _floats(data, channels_last=False)
    per_image = _per_image(data)
    one_by_one = torch.stack([per_image[index][0] for index in range(len(per_image))])
    torch.testing.assert_close(by_hand, ours)
    torch.testing.assert_close(one_by_one, ours)
    assert [per_image[index][1] for index in range(32)] == labels.tolist()


def test_the_clock_leaves_the_warm_up_out_and_stops_when_its_time_is_over():
    clock = Clock(0.0, torch.device("cpu"))
    assert [clock.step(10) for _ in range(6)] == [False] * 5 + [True]
    assert clock.images == 10
    assert clock.rate == clock.images / clock.elapsed
