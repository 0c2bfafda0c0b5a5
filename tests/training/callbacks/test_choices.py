"""`callbacks=`: averages of the weights and Lightning's own callbacks, beside the default ones."""

import re
import shlex
from pathlib import Path

import pytest
import torch
from helpers import command
from helpers.command import figures, results
from helpers.comparison import same_end, same_files
from helpers.forks import start, train

SMALL = ("data=shapes", "data.images=700", "data.val_size=60", "data.test_images=100", "data.batch_size=64",
         "trainer.max_epochs=2", "report=false", "hydra.run.dir=run")  # fmt: skip


def weights(checkpoint: Path, key: str) -> dict[str, torch.Tensor]:
    return {
        name: value
        for name, value in torch.load(checkpoint, weights_only=True)[key].items()
        if name.startswith("predictor.network")
    }


def test_swa_is_the_mean_of_the_weights_after_the_last_steps(tmp_path: Path) -> None:
    typed = (*SMALL, "callbacks=swa", "callbacks.swa.start=0.6", "checkpoint.every_n_steps=1", "checkpoint.keep=30")
    process = train(tmp_path, *typed)
    assert process.returncode == 0, process.stderr
    assert results(tmp_path / "run")["steps"] == 20
    by_step = {}
    for file in (tmp_path / "run/checkpoints").glob("last*.ckpt"):
        by_step[torch.load(file, weights_only=True)["global_step"]] = weights(file, "current_model_state")
    mean = weights(tmp_path / "run/checkpoints/last.ckpt", "state_dict")
    for name, value in mean.items():
        expected = torch.stack([by_step[step][name].double() for step in range(13, 21)]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=0, atol=1e-6)
        assert not torch.equal(value, by_step[20][name])


@pytest.mark.parametrize("choice", ["swa", "ema"])
def test_a_killed_run_with_averaged_weights_ends_where_an_undisturbed_one_ends(tmp_path: Path, choice: str) -> None:
    typed = [*SMALL[:-1], f"callbacks={choice}", "checkpoint.every_n_steps=3", "trainer.max_epochs=3"]
    whole = train(tmp_path, *typed, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    last = tmp_path / "cut/checkpoints/last.ckpt"
    process = start(tmp_path, *typed, "hydra.run.dir=cut")
    assert command.wait_until(last.is_file, process), process.communicate()
    process.kill()
    process.communicate()
    continued = train(tmp_path, "resume=cut")
    assert continued.returncode == 0, continued.stderr
    assert same_end(tmp_path / "whole", tmp_path / "cut")
    assert same_files(tmp_path / "whole", tmp_path / "cut")
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")
    tested = train(tmp_path, "task=test", "checkpoint=cut")
    assert f"acc {results(tmp_path / 'cut')['metrics']['test/acc']:.4f}" in tested.stdout


def test_several_are_chosen_at_once_and_what_needs_a_logger_says_so(tmp_path: Path) -> None:
    process = train(tmp_path, *SMALL, "callbacks=[early_stopping,lr_monitor,device_stats]", "logger=tensorboard",
                    "callbacks.early_stopping.patience=1")  # fmt: skip
    assert process.returncode == 0, process.stderr
    for choice in ("lr_monitor", "device_stats"):
        refused = train(tmp_path, *shlex.split(f"data=shapes data.images=200 callbacks={choice}"))
        assert refused.returncode == 2
        assert re.match(r"error: trainer: Cannot use `\w+` callback with `Trainer", refused.stderr)


def test_early_stopping_ends_a_run_that_no_longer_improves(tmp_path: Path) -> None:
    typed = ("callbacks=early_stopping", "callbacks.early_stopping.patience=1", "trainer.max_epochs=9",
             "optimizer=sgd", "optimizer.lr=1e-9")  # fmt: skip
    process = train(tmp_path, *SMALL, *typed, "callbacks.early_stopping.min_delta=1")
    assert process.returncode == 0, process.stderr
    assert results(tmp_path / "run")["epochs"] < 9
