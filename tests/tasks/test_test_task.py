"""A checkpoint is enough to test its model."""

import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
from helpers.command import TINY, results
from helpers.forks import train

from smallvision.data.dataset import ImageDataset
from smallvision.data.module import ImageDataModule
from smallvision.training.factory import balanced_weights


def test_a_checkpoint_alone_gives_the_test_metrics_of_its_run_to_the_last_digit(finished, tmp_path):
    folder, _ = finished
    shutil.copy(folder / "run/checkpoints/best.ckpt", tmp_path / "elsewhere.ckpt")
    process = train(tmp_path, "task=test", "checkpoint=elsewhere.ckpt")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    (run,) = (tmp_path / "outputs/tests/shapes-mnist-adam").iterdir()
    tested, trained = results(run), results(folder / "run")
    assert tested["task"] == "test"
    for name in ("test/loss", "test/acc"):
        assert tested["metrics"][name] == trained["metrics"][name]
    assert tested["data"] == trained["data"]


def test_the_environment_of_a_run_names_its_command_as_it_was_typed(finished, tmp_path):
    typed = ["task=test", f"checkpoint={finished[0]}/run/checkpoints/best.ckpt", "hydra.run.dir=tested"]
    assert train(tmp_path, *typed).returncode == 0
    environment = json.loads((tmp_path / "tested/environment.json").read_text())
    assert environment["command"] == shlex.join(["python", "train.py", *typed])
    assert (tmp_path / "tested/environment.json").read_text().count("hydra.run.dir") == 1


def test_other_data_of_the_same_shape_and_classes_can_be_tested_and_are_named(finished, tmp_path):
    folder, _ = finished
    checkpoint = f"checkpoint={folder / 'run/checkpoints/best.ckpt'}"
    process = train(tmp_path, "task=test", checkpoint, "data=digits", "hydra.run.dir=tested")
    assert process.returncode == 0, process.stderr
    assert results(tmp_path / "tested")["data"]["name"] == "digits"
    assert "trained on other data: shapes" in process.stdout


def test_data_of_another_shape_are_refused(finished, tmp_path):
    folder, _ = finished
    checkpoint = f"checkpoint={folder / 'run/checkpoints/best.ckpt'}"
    process = train(tmp_path, "task=test", checkpoint, "data.size=20")
    assert process.returncode == 2
    assert process.stderr.startswith("error: data=shapes: images of 1x20x20")
    assert process.stderr.count("\n") == 1


def test_the_model_of_a_checkpoint_cannot_be_changed(finished, tmp_path):
    folder, _ = finished
    checkpoint = f"checkpoint={folder / 'run/checkpoints/best.ckpt'}"
    process = train(tmp_path, "task=test", checkpoint, "model=lenet5")
    assert process.returncode == 2
    assert process.stderr == "error: model: cannot be changed here: the checkpoint fixes it\n"


def test_a_checkpoint_holds_its_whitening_and_its_test_time_views(tmp_path):
    whitened = [
        "model=airbench", "model.widths=[8,8]", "data.size=12", "data.channels=3", "optimizer=muon",
        "data.normalisation.whiten=2", "tta.flip=true", "tta.shift=1", "loss.label_smoothing=0.2",
    ]  # fmt: skip
    trained = train(tmp_path, *TINY, *whitened, "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    test = ["task=test", "checkpoint=run/checkpoints/best.ckpt"]
    runs = {"again": [], "one_view": ["tta.flip=false", "tta.shift=0"]}
    for name, typed in runs.items():
        process = train(tmp_path, *test, *typed, f"hydra.run.dir={name}")
        assert (process.returncode, process.stderr) == (0, "")
    found = {name: results(tmp_path / name)["metrics"] for name in ("run", *runs)}
    for name in ("test/loss", "test/acc"):
        assert found["again"][name] == found["run"][name]
    assert found["one_view"]["test/loss"] != found["run"]["test/loss"]


def test_an_internal_error_ends_with_exit_code_1_a_traceback_and_status_failed(tmp_path):
    """Here of a metric that fails when training has started."""
    broken = {"smallvision.training.classifier.LossAndAccuracy.compute": None}
    process = train(tmp_path, *TINY, "hydra.run.dir=run", patches=broken)
    assert process.returncode == 1
    assert "Traceback" in process.stderr
    assert "'NoneType' object is not callable" in process.stderr
    assert results(tmp_path / "run")["status"] == "failed"


def test_short_names_stand_for_runs_and_tests_lie_apart_from_them(tmp_path):
    for name in ("first", "second", "third"):
        assert train(tmp_path, *TINY, "trainer.max_epochs=1", f"name={name}").returncode == 0
    tested = train(tmp_path, "task=test", "checkpoint=first", "name=again")
    assert tested.returncode == 0, tested.stderr
    assert [path.name[20:] for path in tmp_path.glob("outputs/tests/shapes-mnist-adam/*")] == ["again"]
    continued = train(tmp_path, "resume=last", "trainer.max_epochs=2")
    assert re.search(r"^smallvision: continuing outputs/runs/shapes-mnist-adam/\S+-third$", continued.stdout, re.M)
    compared = train(tmp_path, "task=report", "runs=[first,outputs/runs/*/*-third]")
    assert sorted(re.findall(r"^\S+-(\w+),completed", compared.stdout, re.M)) == ["first", "third"]


def test_unequal_classes_are_named_can_be_weighted_and_have_a_balanced_accuracy(tmp_path):
    labels = np.array([0] * 160 + [1] * 30 + [2] * 10)
    images = np.random.default_rng(0).integers(0, 60, (200, 8, 8)).astype(np.uint8) + (90 * labels[:, None, None] // 2)
    arrays = {"x_train": images, "y_train": labels, "x_test": images[::2], "y_test": labels[::2]}
    np.savez(tmp_path / "mine.npz", **{name: value.astype(np.uint8) for name, value in arrays.items()})
    typed = ("data=arrays", "data.path=mine.npz", "data.val_size=20", "model=linear", "report=false")
    plain = train(tmp_path, *typed, "trainer.max_epochs=1", "hydra.run.dir=plain")
    assert plain.returncode == 0, plain.stderr
    assert "classes    80% are 0: always to answer that is right as often (chance: 33%)\n" in plain.stdout
    assert "classes    see the balanced accuracy, and loss.class_weights=balanced\n" in plain.stdout
    assert "classes    1 of 3 have fewer than 10 test images: too few to judge them by\n" in plain.stdout
    weighted = train(tmp_path, *typed, "loss.class_weights=balanced", "trainer.max_epochs=8", "hydra.run.dir=weighted")
    assert weighted.returncode == 0, weighted.stderr
    tested = train(tmp_path, "task=test", "checkpoint=weighted", "report=false", "hydra.run.dir=tested")
    assert tested.returncode == 0, tested.stderr
    balanced = results(tmp_path / "tested")["balanced_accuracy"]
    assert balanced == results(tmp_path / "weighted")["balanced_accuracy"]
    assert results(tmp_path / "plain")["balanced_accuracy"] is not None
    assert (f"balanced acc {balanced:.4f}" in tested.stdout) == (
        abs(balanced - results(tmp_path / "tested")["metrics"]["test/acc"]) >= 0.001
    )


def test_balanced_weights_give_each_class_the_same_weight():
    labels = torch.tensor([0] * 6 + [1] * 2)
    images = torch.zeros(8, 1, 4, 4, dtype=torch.uint8)
    dataset = ImageDataset("a", "b", ["x", "y"], images, labels, images, labels)
    weights = balanced_weights(ImageDataModule(dataset, val_size=0, batch_size=4, eval_batch_size=4, seed=0))
    assert weights.tolist() == [pytest.approx(8 / 12), 2.0]
