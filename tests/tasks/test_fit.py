"""A run by its command line: what it prints, which files it writes, and that it is reproducible."""

import csv
import html
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.command import TINY, TRAIN, figures, results
from helpers.forks import train, train_without_torch
from PIL import Image

from smallvision.core.run_dir import assign


def test_a_run_writes_the_files_of_a_run_directory(finished):
    folder, process = finished
    assert process.returncode == 0, process.stderr
    assert {path.name for path in (folder / "run").iterdir()} == {
        "config.yaml", "overrides.yaml", "environment.json", "results.json", "metrics.csv", "steps.npy", "train.log",
        ".lock", "checkpoints", "report.html", "report.npz",
    }  # fmt: skip
    assert {path.name for path in (folder / "run/checkpoints").iterdir()} == {
        "best.ckpt", "last.ckpt", "last.1.ckpt",
    }  # fmt: skip
    assert yaml.safe_load((folder / "run/overrides.yaml").read_text())[:3] == [*TINY[:3]]


def test_results_json_has_the_documented_keys(finished):
    folder, _ = finished
    found = results(folder / "run")
    assert found["status"] == "completed"
    assert (found["task"], found["seed"], found["device"], found["precision"]) == ("fit", 0, "cpu", "32")
    assert found["data"]["name"] == "shapes"
    assert (found["data"]["train"], found["data"]["val"], found["data"]["test"]) == (640, 60, 200)
    assert found["model"] == {"name": "mnist", "parameters": 6930}
    assert (found["optimizer"], found["epochs"], found["steps"]) == ("adam", 2, 20)
    assert found["best_checkpoint"] == "checkpoints/best.ckpt"
    for part in ("train", "val", "test"):
        assert 0 < found["metrics"][f"{part}/loss"] < 5
        assert 0 <= found["metrics"][f"{part}/acc"] <= 1
    assert found["metrics"]["test/acc"] * 200 == pytest.approx(round(found["metrics"]["test/acc"] * 200), abs=1e-9)
    assert 0 < found["seconds"]["fit"] < found["seconds"]["total"]
    assert found["images_per_second"] > 0


def test_metrics_csv_has_one_row_per_epoch_and_the_results_are_those_of_the_best(finished):
    folder, _ = finished
    with (folder / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    best = max(rows, key=lambda row: (float(row["val/acc"]), -float(row["val/loss"])))
    found = results(folder / "run")["metrics"]
    for name in ("train/loss", "train/acc", "val/loss", "val/acc"):
        assert found[name] == float(best[name])


def test_steps_npy_has_the_loss_and_the_rate_of_every_step(finished):
    folder, _ = finished
    steps = np.load(folder / "run/steps.npy")
    assert len(steps) == 20
    assert steps["epoch"] == pytest.approx(np.arange(1, 21) / 10)
    with (folder / "run/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert steps["loss"][:10].mean() == pytest.approx(float(rows[0]["train/loss"]), rel=1e-3)
    assert [steps["lr"][9], steps["lr"][19]] == pytest.approx([float(row["lr"]) for row in rows])


def test_the_output_is_plain_text_where_it_is_not_a_terminal_and_free_of_boilerplate(finished):
    _, process = finished
    assert process.stderr == ""
    assert "\r" not in process.stdout
    assert "\x1b" not in process.stdout
    for word in ("shapes, generated", "640 train, 60 val, 200 test", "6,930 parameters", "cpu", "run"):
        assert word in process.stdout
    for boilerplate in ("GPU available", "Lightning", "lightning", "Warning", "warn", "💡"):
        assert boilerplate not in process.stdout


def test_the_commands_that_a_run_prints_can_be_run(finished):
    folder, process = finished
    printed = re.findall(r"python \S*train\.py (.*)", process.stdout)
    assert len(printed) == 3
    test, go_on, compare = [shlex.split(line) for line in printed]
    tested = train(folder, *test, "hydra.run.dir=tested")
    assert tested.returncode == 0, tested.stderr
    compared = train(folder, *compare)
    assert compared.returncode == 0, compared.stderr
    assert "run,completed,shapes" in compared.stdout
    assert go_on == ["resume=run", "trainer.max_epochs=4"]  # tests/tasks/test_resume.py runs it


def test_a_checkpoint_is_plain_and_carries_what_rebuilds_its_model(finished):
    folder, _ = finished
    checkpoint = torch.load(folder / "run/checkpoints/best.ckpt", weights_only=True)
    ours = checkpoint["smallvision"]
    assert ours["format"] == 1
    assert ours["config"]["model"]["_target_"] == "smallvision.models.MnistNet"
    assert ours["shape"] == [1, 28, 28]
    assert ours["classes"][:3] == ["disc", "square", "triangle"]
    assert len(ours["mean"]) == len(ours["std"]) == 1

    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(key, str | int) and plain(inner) for key, inner in value.items())
        if isinstance(value, list | tuple):
            return all(map(plain, value))
        return value is None or isinstance(value, str | int | float | bool | torch.Tensor)

    assert plain(checkpoint)


def test_the_same_command_gives_the_same_results_to_the_last_digit_and_another_seed_others(finished, tmp_path):
    folder, _ = finished
    again = train(tmp_path, *TINY, "hydra.run.dir=run")
    assert again.returncode == 0, again.stderr
    assert figures(tmp_path / "run") == figures(folder / "run")
    other = train(tmp_path, *TINY, "hydra.run.dir=other", "seed=1")
    assert other.returncode == 0, other.stderr
    assert results(tmp_path / "other")["metrics"] != results(folder / "run")["metrics"]


def test_the_config_in_a_run_directory_is_enough_to_run_it_again(finished, tmp_path):
    folder, _ = finished
    again = train(tmp_path, f"rerun={folder / 'run'}", "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    assert figures(tmp_path / "again") == figures(folder / "run")
    lines = [line for line in again.stdout.splitlines() if line.strip()]
    assert len(lines) == len(set(lines))
    assert yaml.safe_load((tmp_path / "again/overrides.yaml").read_text()) == [f"rerun={folder / 'run'}"]
    theirs, ours = (yaml.safe_load((one / "config.yaml").read_text()) for one in (folder / "run", tmp_path / "again"))
    assert theirs == ours


def test_every_command_that_a_run_in_an_odd_folder_prints_runs_when_it_is_pasted(finished):
    """Also those on its page, which a shell takes in any folder."""
    folder, _ = finished
    odd = "it's a=b, größe"
    begun = train(folder, "rerun=run", assign("hydra.run.dir", odd), "report=true", "trainer.max_epochs=1")
    assert begun.returncode == 0, begun.stderr
    page = html.unescape((folder / odd / "report.html").read_text())
    commands = [line[len("<pre>") :] for line in re.findall(r"<pre>cd .*?(?=</pre>)", page)]
    assert len(commands) == 6
    for line in commands:
        words = shlex.split(line)
        assert words[:3] == ["cd", str(folder), "&&"]
        assert Path(words[4]).samefile(TRAIN)
    printed = [shlex.split(line) for line in re.findall(r"python \S*train\.py (.*)", begun.stdout)]
    typed = [shlex.split(line)[5:] for line in commands if re.search("rerun=|task=(test|report)", line)]
    for words in [*printed[:2], *typed]:
        more = [] if re.match("resume=|task=report", words[0]) else [assign("hydra.run.dir", f"again {len(words[-1])}")]
        process = train(folder, *words, *more)
        assert process.returncode == 0, process.stderr
        shutil.rmtree(folder / f"again {len(words[-1])}", ignore_errors=True)


def test_runs_started_together_never_share_a_directory(tmp_path):
    """As new processes, up to the directory, which is made before torch is imported."""
    program = (
        "from smallvision import cli; from smallvision.config.compose import compose;"
        "from smallvision.config.resolve import resolve_config;"
        "composed = compose([]); cli.run_directory(composed, resolve_config(composed, []), [])"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path) for _ in range(3)]
    assert [process.wait(timeout=240) for process in running] == [0, 0, 0]
    assert len(list((tmp_path / "outputs/runs/mnist-mnist-adam").iterdir())) == 3


def test_offline_a_stand_in_replaces_mnist_and_is_named_wherever_results_are_shown(tmp_path):
    process = train(tmp_path, "trainer.max_epochs=1", "hydra.run.dir=run", "data_dir=here")
    assert process.returncode == 0, process.stderr
    assert not (tmp_path / "here").exists()  # nothing was downloaded into it
    assert "STAND-IN: these images are not mnist" in process.stdout
    assert "these metrics say nothing about mnist" in process.stdout
    found = results(tmp_path / "run")["data"]
    assert (found["name"], found["stand_in_for"]) == ("digits", "mnist")
    assert found["source"].startswith("stand-in for mnist")
    saved = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["smallvision"]
    assert saved["data"]["stand_in_for"] == "mnist"
    tested = train(tmp_path, "task=test", "checkpoint=run/checkpoints/best.ckpt", "hydra.run.dir=tested")
    assert "STAND-IN" in tested.stdout
    assert "stand_in_for" in train(tmp_path, "task=report", "runs=run").stdout


@pytest.mark.parametrize("model", ["fashion_mnist", "cifar10"])
def test_offline_a_run_is_refused_where_no_stand_in_is_allowed(tmp_path, model):
    process = train(tmp_path, f"model={model}", "data.offline=error", "data_dir=here")
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: data={model}: not found and not downloaded")
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "outputs").exists() or not list((tmp_path / "outputs").rglob("*.*"))


def test_every_optimizer_runs_with_every_schedule(tmp_path):
    process = train(
        tmp_path, "-m", *TINY, "trainer.max_epochs=1", "trainer.limit_train_batches=3", "data.test_images=20",
        "optimizer=sgd,adam,adamw", "scheduler=none,cosine,linear,one_cycle", "scheduler.warmup=0.2",
        "hydra.sweep.dir=sweep",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    found = [results(tmp_path / "sweep" / str(number)) for number in range(12)]
    assert {one["status"] for one in found} == {"completed"}
    assert {one["optimizer"] for one in found} == {"sgd", "adam", "adamw"}
    assert len({one["metrics"]["train/loss"] for one in found}) == 12


def test_every_model_runs_on_any_data(tmp_path):
    process = train(
        tmp_path, "-m", *TINY, "trainer.max_epochs=1", "trainer.limit_train_batches=2", "data.test_images=20",
        "data.val_size=20", "data.channels=3", "data.size=32", "data.classes=12",
        "data.augmentation.flip=true", "data.augmentation.shift=3", "data.augmentation.cutout=8",
        "hydra.sweep.dir=sweep", "model=mnist,fashion_mnist,cifar10,linear,lenet5,resnet18",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    names = [results(tmp_path / "sweep" / str(number))["model"]["name"] for number in range(6)]
    assert names == ["mnist", "fashion_mnist", "cifar10", "linear", "lenet5", "resnet18"]


@pytest.mark.parametrize(
    ("typed", "data"),
    [
        (["model=cifar10"], "cifar10"),
        (["model=fashion_mnist"], "fashion_mnist"),
        (["model=cifar10", "data=digits"], "digits"),
        (["data=digits"], "digits"),
        ([], "mnist"),
    ],
)
def test_a_model_picks_its_data_and_data_on_the_command_line_wins(tmp_path, typed, data):
    shown = train_without_torch(tmp_path, "--cfg", "job", *typed)
    assert yaml.safe_load(shown.stdout)["data"]["name"] == data


def test_a_run_in_double_precision_trains_and_its_checkpoint_tests_alike(tmp_path):
    process = train(tmp_path, *TINY, "device=cpu", "device.precision=64-true", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    checkpoint = "checkpoint=run/checkpoints/best.ckpt"
    weights = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert {tensor.dtype for name, tensor in weights.items() if name.startswith("predictor.network")} == {torch.float64}
    again = train(tmp_path, "task=test", checkpoint, "hydra.run.dir=again")
    assert again.returncode == 0, again.stderr
    single = train(tmp_path, "task=test", checkpoint, "device.precision=32", "hydra.run.dir=single")
    assert single.returncode == 0, single.stderr
    found = {name: results(tmp_path / name) for name in ("run", "again", "single")}
    assert [one["precision"] for one in found.values()] == ["64-true", "64-true", "32"]
    losses = [one["metrics"]["test/loss"] for one in found.values()]
    assert losses[0] == losses[1] == pytest.approx(losses[2], rel=1e-5)
    Image.new("L", (28, 28), 200).save(tmp_path / "grey.png")
    predicted = train(tmp_path, "task=predict", checkpoint, "images=grey.png")
    assert predicted.returncode == 0, predicted.stderr


def test_without_validation_images_the_last_epoch_is_the_best(tmp_path):
    process = train(tmp_path, *TINY, "data.val_size=0", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    found = results(tmp_path / "run")
    assert found["metrics"]["val/acc"] is None
    assert found["metrics"]["test/acc"] is not None
    assert torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)["epoch"] == 1


def test_without_test_images_there_are_no_test_metrics(tmp_path):
    process = train(tmp_path, *TINY, "data.test_images=0", "data.drop_last=true", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    assert results(tmp_path / "run")["metrics"]["test/acc"] is None


def test_early_stopping_ends_a_run_that_no_longer_improves_and_report_false_writes_no_page(tmp_path):
    process = train(
        tmp_path, *TINY, "trainer.max_epochs=50", "early_stopping.patience=1", "early_stopping.min_delta=0.9",
        "report=false", "hydra.run.dir=run",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert results(tmp_path / "run")["epochs"] == 2
    assert not list((tmp_path / "run").glob("report.*"))


def test_two_processes_train_like_one(finished, tmp_path):
    """Each takes a part of every batch, so only the order of sums differs."""
    folder, _ = finished
    process = train(tmp_path, *TINY, "trainer.devices=2", "trainer.strategy=ddp", "device=cpu", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    one, two = results(folder / "run"), results(tmp_path / "run")
    assert two["steps"] == one["steps"]
    for name, value in one["metrics"].items():
        assert two["metrics"][name] == pytest.approx(value, rel=1e-3, abs=0.011)
    assert process.stdout.count("smallvision: training") == 1


def test_a_last_batch_of_one_image_that_batch_norm_cannot_take_is_refused_before_training(tmp_path):
    typed = [*TINY, "model=cifar10", "data.size=8", "data.images=125", "data.batch_size=64"]  # 65 to train on
    process = train(tmp_path, *typed)
    assert process.returncode == 2
    assert process.stderr.startswith("error: data.batch_size=64: leaves a batch of one")
    assert train(tmp_path, *typed, "data.drop_last=true", "trainer.max_epochs=1").returncode == 0


def test_a_run_that_ends_within_an_epoch_is_validated_there(tmp_path):
    process = train(tmp_path, *TINY, "trainer.max_steps=13", "trainer.profiler=simple", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()[1:]
    assert [row.split(",")[:2] for row in rows] == [["1", "10"], ["2", "13"]]
    assert rows[0].split(",")[5:] != rows[1].split(",")[5:]
    assert "run_training_batch" in (tmp_path / "run/fit-profile.txt").read_text()


def test_a_terminal_of_80_columns_shows_running_loss_rate_and_time_left(tmp_path):
    process = train(
        tmp_path, *TINY, env={"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"},
        patches={"smallvision.training.callbacks.progress.REFRESH_SECONDS": 0.0},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", process.stdout)
    bars = [line for line in re.split(r"[\r\n]", text) if " left" in line]
    assert max(map(len, bars)) <= 80
    assert re.fullmatch(
        r"  epoch 2/2, validating ━+ 10/10 loss 2\.\d+ lr \S+ 0:00:00 of 0:00:00 left", bars[-1].rstrip()
    )


def test_a_log_file_gets_a_line_an_epoch(finished):
    _, process = finished
    assert len(re.findall(r"^ +\d/2 ", process.stdout, re.M)) == 2
    assert " left" not in process.stdout


def test_the_images_per_second_of_an_epoch_count_what_came_before_its_saves_too(tmp_path):
    process = train(tmp_path, *TINY, "trainer.max_epochs=1", "checkpoint.every_n_steps=3", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    (row,) = re.findall(r"^ +1/1 .*$", process.stdout, re.M)
    assert f" {results(tmp_path / 'run')['images_per_second']:,.0f} " in f"{row} "
