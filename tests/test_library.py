"""smallvision in Python: fit, load and runs, which do what the command line does and change nothing else."""

import csv
import gc
import json
import locale
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import matplotlib as mpl
import numpy as np
import pytest
import torch
from helpers.command import TINY, figures
from helpers.forks import train
from hydra.core.global_hydra import GlobalHydra
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import smallvision
from smallvision.core.errors import UserError
from smallvision.reports.predictions import csv_row
from smallvision.tasks.predict import ImagePredictor
from smallvision.training.classifier import Classifier

NET = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes, size):
        super().__init__(nn.Flatten(), nn.Linear(size[0] * size[1], classes))
"""


def settings() -> dict[str, Any]:
    """What a notebook would notice."""
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    loggers = {one.name: one for one in known if isinstance(one, logging.Logger)}
    return {
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warn only": torch.is_deterministic_algorithms_warn_only_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled),
        "random": (torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())),
        "filters": list(warnings.filters),
        "show warning": warnings.showwarning,
        **{f"logger {name}": (one.level, one.disabled, list(one.handlers)) for name, one in loggers.items()},
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)],
        "hooks": (sys.excepthook, threading.excepthook, sys.stdout, sys.stderr),
        "environment": dict(os.environ),
        "path": list(sys.path),
        "folder": Path.cwd(),
        "hydra": GlobalHydra.instance().hydra,
        "matplotlib": dict(mpl.rcParams),
        "numpy": (np.geterr(), np.get_printoptions()),
        "others": (gc.isenabled(), locale.setlocale(locale.LC_ALL), torch.multiprocessing.get_sharing_strategy()),
    }


def changes(before: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What is another setting now."""
    now = settings()
    return {name: (value, now[name]) for name, value in before.items() if value != now[name]}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder and the results of a run that was fitted there from Python, of a net of its own."""
    folder = tmp_path_factory.mktemp("fitted")
    (folder / "mine.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        before = settings()
        results = smallvision.fit(*TINY, "use=mine", "model._target_=mine.Net", "hydra.run.dir=run")
        assert changes(before) == {}
    return folder, results


def test_an_import_takes_neither_torch_nor_hydra() -> None:
    code = "import smallvision, sys; assert not {'torch', 'hydra', 'numpy', 'rich'} & sys.modules.keys(), sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fit_is_that_of_the_command_line_and_leaves_all_settings_alone(
    fitted: tuple[Path, Any], tmp_path: Path
) -> None:
    folder, results = fitted
    (tmp_path / "mine.py").write_text(NET)
    assert train(tmp_path, *TINY, "use=mine", "model._target_=mine.Net", "hydra.run.dir=run").returncode == 0
    assert figures(folder / "run") == figures(tmp_path / "run")
    assert json.loads(json.dumps(results.to_dict())) == json.loads((folder / "run/results.json").read_text())
    assert results.directory == Path("run")


def test_a_second_fit_reads_files_that_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["data=arrays", "data.path=mine.npz", "model=linear", "trainer.max_epochs=1", "report=false"]
    for images in (40, 60):
        np.savez("mine.npz", x_train=np.zeros((images, 8, 8), np.uint8), y_train=np.arange(images) % 2)
        results = smallvision.fit(*arguments, f"hydra.run.dir={images}")
        assert results.data.train + results.data.val == images


def test_a_loaded_model_predicts_what_task_predict_does_and_leaves_all_settings_alone(
    finished: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = finished
    monkeypatch.chdir(folder)
    (folder / "photos").mkdir()
    noise = np.random.default_rng(0)
    arrays = [noise.integers(0, 256, shape, np.uint8) for shape in ((40, 30), (28, 28), (60, 90, 3), (50, 50, 4))]
    for number, array in enumerate(arrays):
        Image.fromarray(array).save(f"photos/{number}.png")
    assert train(folder, "task=predict", "checkpoint=run", "images=photos", "hydra.run.dir=predicted").returncode == 0
    rows = list(csv.reader((folder / "predicted/predictions.csv").open()))[1:]
    assert train(folder, "task=export", "checkpoint=run", "format=safetensors").returncode == 0
    before = settings()
    for path in ("run", Path("run/checkpoints/best.ckpt"), "run/model.safetensors"):
        net = smallvision.load(path)
        assert isinstance(net, ImagePredictor)
        assert [csv_row(one, 3) for one in net.predict("photos/*.png")] == rows
    in_files, opened = net.predict("photos"), [Image.open(f"photos/{number}.png") for number in range(4)]
    in_torch = [torch.from_numpy(one).movedim(-1, 0) if one.ndim == 3 else torch.from_numpy(one) for one in arrays]
    for images in (opened, arrays, in_torch, [Path("photos/0.png"), *arrays[1:]]):
        assert [one.top for one in net.predict(images)] == [one.top for one in in_files]
    assert net.predict(arrays, top_k=99)[0].top[:3] == in_files[0].top
    first = in_files[0]
    assert (first.label, first.probability) == first.top[0]
    assert net.probabilities(arrays).argmax(1).tolist() == [net.spec.classes.index(one.label) for one in in_files]
    batch = noise.integers(0, 256, (300, *net.spec.shape), np.uint8)
    parts = torch.from_numpy(batch).split(net.chunk)  # rounding depends on how many images are multiplied at once
    assert torch.equal(net.probabilities(torch.from_numpy(batch)), torch.cat([net.probabilities(one) for one in parts]))
    assert len(parts) > 1
    last = [layer for layer in net.network.modules() if isinstance(layer, torch.nn.Linear)][-1]
    features = net.features(torch.from_numpy(batch))
    assert features.shape == (300, last.in_features)
    torch.testing.assert_close(last(features).softmax(1), net.probabilities(torch.from_numpy(batch)))
    assert net.probabilities(torch.zeros(0, *net.spec.shape, dtype=torch.uint8)).shape == (0, len(net.spec.classes))
    assert (net.predict([]), net.features([]).shape) == ([], (0, last.in_features))
    assert changes(before) == {}


def test_what_is_wrong_is_raised_in_one_line(finished: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = finished
    monkeypatch.chdir(folder)
    (folder / "none.png").write_text("no image")
    net = smallvision.load("run")
    for images, message in (
        ("none.png", "not a readable image"),
        ("nothing/*.png", "nothing matches"),
        (np.zeros((28, 28)), "images: float64, 28x28: must be paths"),
        (np.zeros((28, 28, 2), np.uint8), "images: uint8, 28x28x2: must be"),
        (3, "images: int: must be paths"),
    ):
        with pytest.raises(UserError, match=message):
            net.predict(images)  # type: ignore[arg-type]
    for overrides, message in (
        (["optimizer=adm"], "Did you mean 'adam'"),
        (["task=test", "checkpoint=run"], "fit.. trains"),
        (["sweep.trials=3"], "goes with a sweep"),
        (["seed=0,1"], "several values"),
    ):
        with pytest.raises(UserError, match=message):
            smallvision.fit(*overrides)
    for path, message in (("none.png", "not a checkpoint"), ("nowhere", "no such file"), ("x.safetensors", "no such")):
        with pytest.raises(UserError, match=message):
            smallvision.load(path)
    with pytest.raises(UserError, match="no runs there"):
        smallvision.runs("nowhere")


def test_code_of_ones_own_is_loaded_only_where_use_is_passed(
    fitted: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = fitted
    monkeypatch.chdir(folder)
    assert smallvision.load("run", use="mine").predict(np.zeros((28, 28), np.uint8))[0].label
    assert train(folder, "task=export", "checkpoint=run", "format=safetensors", "use=mine").returncode == 0
    for path in ("run", "run/model.safetensors"):
        assert smallvision.load(path, "cpu", use=["mine"]).spec.model["_target_"] == "mine.Net"
        with pytest.raises(UserError, match="type use="):
            smallvision.load(path)
    best = "run/checkpoints/best.ckpt"
    assert Classifier.load_from_checkpoint(best, use=["mine"]).predictor.spec.model["_target_"] == "mine.Net"
    with pytest.raises(UserError, match="type use="):
        Classifier.load_from_checkpoint(best)


def test_a_fit_that_is_stopped_is_saved_and_ends_as_a_cell_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/stop").touch()
    before = settings()
    with pytest.raises(KeyboardInterrupt):
        smallvision.fit(*TINY, "hydra.run.dir=run")
    assert changes(before) == {}
    assert json.loads((tmp_path / "run/results.json").read_text())["status"] == "interrupted"
    thread = threading.Thread(target=smallvision.fit, args=("resume=run",))  # where no signal is handled
    thread.start()
    thread.join()
    assert json.loads((tmp_path / "run/results.json").read_text())["status"] == "completed"


def test_a_table_of_runs_has_config_keys_and_metrics(fitted: tuple[Path, Any]) -> None:
    folder, results = fitted
    [row] = smallvision.runs(folder)
    assert (row["run"], row["status"], row["model._target_"]) == (str(folder / "run"), "completed", "mine.Net")
    assert (row["optimizer.lr"], row["test/acc"]) == (0.001, results.metrics["test/acc"])


def test_lightning_loads_our_classifier_and_tests_it(finished: tuple[Path, Any]) -> None:
    folder, _ = finished
    model = Classifier.load_from_checkpoint(folder / "run/checkpoints/best.ckpt", map_location="cpu")
    images = torch.randint(0, 256, (6, 1, 28, 28), dtype=torch.uint8)
    net = smallvision.load(folder / "run")
    torch.testing.assert_close(model.eval()(images).softmax(1), net.probabilities(images))
    labels = torch.zeros(6, dtype=torch.long)
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    [found] = trainer.test(model, DataLoader(TensorDataset(images, labels), 6), verbose=False)
    assert 0 <= found["test/acc"] <= 1
