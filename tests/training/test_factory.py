"""The callbacks of a run are those of its config."""

from pathlib import Path

import lightning.pytorch as pl
import pytest
from helpers.configs import resolved
from lightning.pytorch.callbacks import Callback, EarlyStopping, Timer
from lightning.pytorch.demos.boring_classes import BoringModel

from smallvision.config.targets import check_targets
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir
from smallvision.training.callbacks.checkpointing import Checkpointing
from smallvision.training.callbacks.progress import Progress
from smallvision.training.factory import (
    STEP_HOOKS,
    leave_out_unused_hooks,
    make_callbacks,
    make_data,
    make_experiment,
)

TINY = ("model=linear", "data=shapes", "data.images=60", "data.test_images=10", "data.val_size=10", "data.size=8")
DEFAULT = [
    "KeyedRandomness", "ExactResume", "TerminateOnNaN", "EpochTimer", "MetricsCSV", "StepMetrics", "Checkpointing",
    "Progress", "KeepProbabilities", "GracefulStop",
]  # fmt: skip


def callbacks(run_dir: Path, *typed: str) -> list[Callback]:
    config = resolved(*TINY, *typed)
    return make_callbacks(config, make_experiment(config, make_data(config)), RunDir(run_dir), Console(), None)


def names(made: list[Callback]) -> list[str]:
    return [type(callback).__name__ for callback in made]


def test_a_run_has_the_default_callbacks_in_the_order_of_their_file(tmp_path: Path) -> None:
    assert names(callbacks(tmp_path)) == DEFAULT


def test_a_callback_of_lightnings_is_added_with_its_own_arguments(tmp_path: Path) -> None:
    added = "+callbacks.limit={_target_: lightning.pytorch.callbacks.Timer, duration: '00:00:10:00'}"
    *default, timer = callbacks(tmp_path, added)
    assert names(default) == DEFAULT
    assert isinstance(timer, Timer)
    assert timer.time_remaining() == 600


def test_a_callback_that_is_null_is_left_out(tmp_path: Path) -> None:
    made = callbacks(tmp_path, "callbacks.progress=null", "callbacks.graceful_stop=null")
    assert names(made) == [name for name in DEFAULT if name not in ("Progress", "GracefulStop")]


def test_keys_with_a_place_of_their_own_reach_their_callbacks(tmp_path: Path) -> None:
    typed = ("checkpoint.keep=5", "log_every_n_batches=7", "early_stopping.patience=3", "early_stopping.min_delta=0.5")
    made = callbacks(tmp_path, *typed)
    (checkpointing,) = [one for one in made if isinstance(one, Checkpointing)]
    (progress,) = [one for one in made if isinstance(one, Progress)]
    (stopping,) = [one for one in made if isinstance(one, EarlyStopping)]
    assert (checkpointing.keep, progress.log_every) == (5, 7)
    assert checkpointing.last_path == tmp_path / "checkpoints/last.ckpt"
    assert (stopping.monitor, stopping.patience, stopping.min_delta) == ("val/acc", 3, 0.5)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("callbacks.metrics_csv=null", r"^callbacks: results\.json needs smallvision\..*\.MetricsCSV; leave it in$"),
        ("+callbacks.progress.colour=red", r"^callbacks\.progress\.colour: no such key"),
        ("+callbacks.checkpointing.keep=3", r"^callbacks\.checkpointing\.keep: no such key"),
        ("+callbacks.x={_target_: os.system}", r"^callbacks\.x\._target_=os\.system: not allowed here; a callback is"),
        ("+callbacks.x={keep: 3}", r"^callbacks\.x\._target_=None: not allowed here"),
        ("+callbacks.x=3", r"^callbacks=.*: must be a section of keys"),
        ("callbacks=null", r"^callbacks=null: needs a choice.*default"),
        ("~callbacks", r"^~callbacks: a key cannot be left out; set it"),
        # It would choose the folder that it writes to, and a config may come from elsewhere.
        ("+callbacks.x={_target_: lightning.pytorch.callbacks.ModelCheckpoint}", r"ModelCheckpoint: not allowed here"),
    ],
)
def test_callbacks_that_cannot_be_are_refused(tmp_path: Path, typed: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        callbacks(tmp_path, typed)
    assert "\n" not in str(refused.value)


def test_the_shipped_callbacks_are_on_the_list() -> None:
    check_targets(resolved(*TINY))


def test_a_network_of_one_size_refuses_smaller_images_before_the_first_step() -> None:
    small = ("data.progressive_resizing.size=6", "data.progressive_resizing.epochs=1")
    config = resolved(*TINY, *small)
    with pytest.raises(UserError, match=r"^model: cannot take images of 1x6x6: "):
        make_experiment(config, make_data(config))
    config = resolved(*TINY[1:], "model=cifar10", "model.widths=[4]", "model.depths=[0]", *small)
    experiment = make_experiment(config, make_data(config))
    assert experiment.data.small_size == (6, 6)


class CountsBackward(Callback):
    calls = 0

    def on_after_backward(self, *_: object) -> None:
        self.calls += 1


def test_lightning_calls_the_hooks_that_a_callback_has_and_no_others() -> None:
    callback = CountsBackward()
    leave_out_unused_hooks(callback, Callback)
    unused = [hook for hook in STEP_HOOKS if getattr(callback, hook) is None]
    assert sorted([*unused, "on_after_backward"]) == sorted(STEP_HOOKS)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=3, callbacks=[callback], logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(BoringModel())
    assert callback.calls == 3
