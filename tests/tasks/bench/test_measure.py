"""The contenders of a benchmark train on the same numbers and are timed alike; products are timed on every device."""

import pytest
import torch
from helpers.command import TINY
from helpers.configs import resolved

from smallvision.core.errors import Interrupted
from smallvision.core.run_dir import RunDir
from smallvision.core.system import STOP
from smallvision.data.module import ImageDataModule
from smallvision.data.shapes import shapes
from smallvision.tasks.bench import measure
from smallvision.tasks.bench.measure import Clock, SmallVision, Speed, float_images, per_image_dataset
from smallvision.training.callbacks import find_callback
from smallvision.training.callbacks.checkpointing import Checkpointing
from smallvision.training.factory import make_callbacks, make_data, make_experiment
from smallvision.training.predictor import Normalise


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


def test_a_loop_holds_no_more_images_than_a_measurement_needs(monkeypatch):
    data = ImageDataModule(
        shapes(images=40, test_images=0, size=12), val_size=8, batch_size=16, eval_batch_size=16, seed=0
    )
    monkeypatch.setattr(measure, "FLOATS", 20 * 12 * 12)
    assert len(float_images(data, channels_last=False)[0]) == len(per_image_dataset(data)) == 20


def test_our_run_trains_with_every_callback_of_a_fit(monkeypatch, tmp_path):
    config, fit = resolved("task=bench", *TINY), resolved("task=fit", *TINY)
    experiment = make_experiment(config, make_data(config))
    trainers = []
    make_trainer = measure.make_trainer

    def kept(*arguments, **own):
        trainers.append(make_trainer(*arguments, **own))
        return trainers[-1]

    monkeypatch.setattr(measure, "make_trainer", kept)
    assert SmallVision("smallvision", config, experiment).measure(0.0) > 0
    (trainer,) = trainers
    used = {type(callback) for callback in trainer.callbacks}
    assert used >= {
        type(callback) for callback in make_callbacks(fit, experiment, RunDir(tmp_path), measure.Console(), None)
    }
    saves = find_callback(trainer, Checkpointing)
    assert (saves.every_n_steps, saves.every_n_minutes, saves.keep) == tuple(fit.checkpointing.to_dict().values())
    assert trainer.global_step == measure.WARM_UP_STEPS + 1


def test_the_clock_leaves_the_warm_up_out_and_stops_when_its_time_is_over():
    clock = Clock(0.0)
    assert [clock.step(10) for _ in range(6)] == [False] * 5 + [True]
    assert clock.images == 10
    assert clock.rate == clock.images / clock.elapsed


def test_a_signal_ends_every_contender_at_its_next_step(monkeypatch):
    monkeypatch.setattr(STOP, "signal", "SIGINT")
    with pytest.raises(Interrupted):
        Clock(0.0).step(10)


def test_ratios_are_medians_over_rounds_not_ratios_of_medians():
    ours = [10.0, 100.0, 30.0]
    other = Speed.of([5.0, 10.0, 30.0], ours)
    assert other.ours_is == pytest.approx(2.0)
    assert (other.images_per_second, other.low, other.high) == (10, 5, 30)
    assert Speed.of(ours, ours).ours_is == 1


def test_all_products_take_time_at_every_size(monkeypatch):
    monkeypatch.setattr(measure, "SIZES", (8, 64))
    monkeypatch.setattr(measure, "SECONDS", 0.001)
    monkeypatch.setattr(measure, "LARGE", 200)
    found = measure.time_products(torch.device("cpu"), with_large=True)
    assert {dtype: [*rates] for dtype, rates in found.gflops.items()} == {"float32": [8, 64], "bfloat16": [8, 64]}
    assert all(rate > 0 for rates in found.gflops.values() for rate in rates.values())
    assert min(found.elementwise_ms, found.oblong_ms, found.large_s) > 0


def test_a_product_is_timed_with_all_threads_that_torch_uses(monkeypatch):
    used = []

    class TimerOfThreads(measure.Timer):
        def blocked_autorange(self, **options):
            used.append(self._task_spec.num_threads)
            return super().blocked_autorange(**options)

    monkeypatch.setattr(measure, "Timer", TimerOfThreads)
    monkeypatch.setattr(measure, "SECONDS", 0.001)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert measure.seconds("a @ b", torch.ones(4, 4), torch.ones(4, 4)) > 0
    assert used == [2]


def test_the_cpu_is_always_among_the_devices():
    assert torch.device("cpu") in measure.devices()
