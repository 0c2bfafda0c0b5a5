"""Interrupted, killed and finished runs go on in place, to the bit."""

import csv
import re
import shlex
import shutil
import signal
import time
from pathlib import Path
from threading import Thread

import pytest
import torch
import yaml
from helpers import command
from helpers.command import TINY, figures, results
from helpers.comparison import same_end, same_files
from helpers.forks import start, train

from smallvision.reports.run_view import RunView


def wait_for(condition, process) -> None:
    for _ in range(6000):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    raise AssertionError("it never came")


def test_a_run_killed_twice_in_mid_epoch_ends_where_an_undisturbed_one_ends(tmp_path):
    """First as a new process; test_kill_points.py has more kinds of runs."""
    typed = [
        *TINY, "model=mnist", "optimizer=sgd", "scheduler=one_cycle", "trainer.max_epochs=3",
        "data.images=2000", "checkpoint.every_n_steps=3",
    ]  # fmt: skip
    whole = train(tmp_path, *typed, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    last = tmp_path / "cut/checkpoints/last.ckpt"
    for begin, overrides in ((command.start, [*typed, "hydra.run.dir=cut"]), (start, ["resume=cut"])):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = begin(tmp_path, *overrides)
        wait_for(lambda before=before: last.exists() and last.stat().st_mtime_ns > before, process)
        process.kill()
        process.communicate()
        assert not (tmp_path / "cut/results.json").exists()
    drawn = train(tmp_path, "task=report", "runs=cut")
    assert drawn.returncode == 0, drawn.stderr
    assert "Its process was killed." in (tmp_path / "cut/report.html").read_text()
    assert torch.load(last, weights_only=True)["global_step"] < results(tmp_path / "whole")["steps"]

    continued = train(tmp_path, "resume=cut")
    assert continued.returncode == 0, continued.stderr
    assert same_end(tmp_path / "whole", tmp_path / "cut")
    assert same_files(tmp_path / "whole", tmp_path / "cut")
    assert not (tmp_path / "cut/running.json").exists()
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_saved_with_130_and_the_command_that_continues_it(tmp_path, sent):
    typed = [*TINY, "data.images=4000", "trainer.max_epochs=3"]
    process = start(tmp_path, *typed, "hydra.run.dir=cut")
    wait_for((tmp_path / "cut/metrics.csv").exists, process)
    process.send_signal(sent)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert results(tmp_path / "cut")["status"] == "interrupted"
    assert (tmp_path / "cut/checkpoints/last.ckpt").is_file()

    (printed,) = re.findall(r"python \S*train\.py (.*)", out)
    continued = train(tmp_path, *shlex.split(printed))
    assert continued.returncode == 0, continued.stderr
    assert train(tmp_path, *typed, "hydra.run.dir=whole").returncode == 0
    assert same_end(tmp_path / "whole", tmp_path / "cut")
    assert figures(tmp_path / "cut") == figures(tmp_path / "whole")


def test_a_file_stop_ends_a_run_saved_and_does_not_stop_it_again_when_it_is_continued(tmp_path):
    typed = [*TINY, "model=linear", "scheduler=none", "trainer.max_epochs=400", "report=false"]
    run = tmp_path / "cut"
    stopper = Thread(target=stop_after_first_row, args=[run])
    stopper.start()
    stopped = train(tmp_path, *typed, "hydra.run.dir=cut")
    stopper.join()
    assert stopped.returncode == 130, stopped.stderr
    assert "cut/stop: stopping after this step" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert results(run)["status"] == "interrupted"
    assert f"resume={run.name}" in stopped.stdout

    assert (run / "stop").is_file()
    epochs = results(run)["epochs"] + 1
    whole = train(tmp_path, *typed, f"trainer.max_epochs={epochs}", "hydra.run.dir=whole")
    continued = train(tmp_path, "resume=cut", f"trainer.max_epochs={epochs}")
    assert (whole.returncode, continued.returncode) == (0, 0), continued.stderr
    assert "removed    cut/stop, which stopped the run before" in continued.stdout
    assert not (run / "stop").exists()
    assert (run / "metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def stop_after_first_row(run_dir: Path) -> None:
    for _ in range(6000):
        if (run_dir / "metrics.csv").exists():
            (run_dir / "stop").touch()
            return
        time.sleep(0.01)


def test_a_signal_while_it_loads_ends_a_run_at_once_and_leaves_nothing(tmp_path):
    """Of a new process, which then imports torch."""
    process = command.start(tmp_path, *TINY, "hydra.run.dir=cut")
    wait_for((tmp_path / "cut/train.log").exists, process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert (process.returncode, err) == (130, "\nSIGINT: stopped while loading\n")
    assert "interrupted" not in out
    assert not (tmp_path / "cut").exists()


def test_two_signals_at_once_are_one(tmp_path):
    process = start(tmp_path, *TINY, "data.images=4000", "trainer.max_epochs=30", "hydra.run.dir=cut")
    wait_for((tmp_path / "cut/metrics.csv").exists, process)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert results(tmp_path / "cut")["status"] == "interrupted"
    assert "all of it saved" in out


def test_a_finished_run_goes_on_with_more_epochs_in_one_piece(finished):
    folder, _ = finished
    before = (folder / "run/metrics.csv").read_text()
    continued = train(folder, "resume=run", "trainer.max_epochs=4")
    assert re.search(r"the learning rate is raised again, from \S+ to 0.000\d+, as", continued.stdout)
    assert continued.returncode == 0, continued.stderr
    after = (folder / "run/metrics.csv").read_text()
    assert after.startswith(before)
    assert [line.split(",")[0] for line in after.splitlines()] == ["epoch", "1", "2", "3", "4"]
    found = results(folder / "run")
    assert (found["status"], found["epochs"], found["steps"]) == ("completed", 4, 40)
    rows = [line.split(",") for line in after.splitlines()[1:]]
    assert found["metrics"]["val/acc"] == max(float(row[6]) for row in rows)
    schedule = "from step 21: trainer.max_epochs=4 (before: 2)"
    assert yaml.safe_load((folder / "run/config.yaml").read_text())["continued"] == [schedule]

    assert found["times_tested"] == 2
    assert ", tested twice" in continued.stdout
    assert train(folder, "task=report", "runs=run").returncode == 0
    page = (folder / "run/report.html").read_text()
    assert "the run was tested twice" in page
    assert f"({schedule}), so no single command gives this run" in page
    assert "rerun=" not in page


def test_validations_within_an_epoch_are_shown_and_a_run_goes_on_from_any_of_them(tmp_path):
    typed = [
        *TINY,
        "report=true",
        "+trainer.val_check_interval=0.4",
        "checkpoint.every_n_steps=1",
        "checkpoint.keep=20",
    ]
    whole = train(tmp_path, *typed, "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    with (tmp_path / "whole/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["epoch"], row["step"]) for row in rows] == [
        ("0.4", "4"), ("0.8", "8"), ("1", "10"), ("1.4", "14"), ("1.8", "18"), ("2", "20")]  # fmt: skip
    assert [bool(row["val/acc"]) for row in rows] == [True, True, False] * 2
    assert [bool(row["train/acc"]) for row in rows] == [False, False, True] * 2
    assert re.search(rf"^ +1.4/2 +- +- +{float(rows[3]['val/loss']):.4f} .* step 14$", whole.stdout, re.M)
    assert results(tmp_path / "whole")["epochs"] == 2
    assert list(RunView.read(tmp_path / "whole").points("val/acc")) == [0.4, 0.8, 1.4, 1.8]
    assert [row["epoch"] for row in RunView.read(tmp_path / "whole").rows] == [1, 2]
    for number in (2, 6, 8):  # saved after steps 18, 14 and 12
        cut = tmp_path / f"cut{number}"
        shutil.copytree(tmp_path / "whole", cut)
        for file in cut.glob("checkpoints/*.ckpt"):
            if file.name == f"last.{number}.ckpt":
                file.replace(cut / "checkpoints/last.ckpt")
        (cut / "metrics.csv").unlink()
        (cut / "results.json").unlink()
        continued = train(tmp_path, f"resume={cut.name}", "report=false")
        assert continued.returncode == 0, continued.stderr
        assert same_end(tmp_path / "whole", cut)
        assert (cut / "metrics.csv").read_bytes() == (tmp_path / "whole/metrics.csv").read_bytes()


def test_validations_by_the_clock_are_shown_too(tmp_path):
    clock = "+trainer.val_check_interval={milliseconds:1}"
    process = train(tmp_path, *TINY, clock, "checkpoint.every_n_steps=2", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    assert len(RunView.read(tmp_path / "run").points("val/acc")) > 2


def test_the_seconds_of_a_continued_run_are_those_of_all_its_pieces(tmp_path):
    """One that is stopped, one that is killed after a save, and one that ends."""
    typed = [*TINY, "data.images=3000", "checkpoint.every_n_steps=1", "trainer.max_epochs=400", "hydra.run.dir=run"]
    stopper = Thread(target=stop_after_first_row, args=[tmp_path / "run"])
    stopper.start()
    assert train(tmp_path, *typed).returncode == 130
    stopper.join()
    stopped = results(tmp_path / "run")["seconds"]
    last = tmp_path / "run/checkpoints/last.ckpt"
    process, before = start(tmp_path, "resume=run"), last.stat().st_mtime_ns
    wait_for(lambda: last.stat().st_mtime_ns > before, process)
    process.kill()
    process.communicate()
    saved = torch.load(last, weights_only=True)
    total, fit = saved["smallvision"]["seconds"], saved["callbacks"]["EpochTimer"]["seconds"]
    assert stopped["total"] < total
    assert stopped["fit"] < fit
    ended = train(tmp_path, "resume=run", f"trainer.max_epochs={saved['epoch'] + 1}")
    assert ended.returncode == 0, ended.stderr
    seconds = results(tmp_path / "run")["seconds"]
    assert total < seconds["total"]
    assert fit < seconds["fit"] < seconds["total"]


def test_a_run_begun_on_a_stand_in_does_not_go_on_with_other_images(tmp_path):
    typed = ["model=mnist", "data_dir=here", "trainer.max_epochs=1", "trainer.limit_train_batches=2"]
    begun = train(tmp_path, *typed, "hydra.run.dir=run")
    assert begun.returncode == 0, begun.stderr
    (tmp_path / "here/MNIST").mkdir(parents=True)
    for part, count in (("train", 300), ("t10k", 20)):  # other images have come there since
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (tmp_path / f"here/MNIST/{part}-images-idx3-ubyte").write_bytes(header + bytes(count * 784))
        header = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big")
        (tmp_path / f"here/MNIST/{part}-labels-idx1-ubyte").write_bytes(header + bytes(range(10)) * (count // 10))
    process = train(tmp_path, "resume=run", "trainer.max_epochs=2")
    assert process.returncode == 2
    assert process.stderr.startswith("error: resume=run: started on digits (stand-in for mnist")
    assert process.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("data.val_size=5", "data.val_size: cannot be changed here"),
        ("seed=3", "seed: cannot be changed here"),
        ("optimizer=sgd", "optimizer: cannot be changed here"),
        (
            "optimizer.lr=0.1",
            "optimizer.lr: cannot be changed here: resume= continues the run as it was, with another"
            " trainer.max_epochs, device, logger, checkpoint or display; rerun=run starts a new run with other values",
        ),
        ("scheduler=none", "scheduler: cannot be changed here"),
        ("trainer.limit_train_batches=2", "trainer.limit_train_batches: cannot be changed here"),
        ("early_stopping.patience=1", "early_stopping.patience: cannot be changed here"),
        ("param_groups.head.lr=0.1", "param_groups.head.lr: cannot be changed here"),
        ("tta.flip=true", "tta.flip: cannot be changed here"),
    ],
)
def test_what_a_run_was_cannot_be_changed_on_resume(finished, typed, words):
    folder, _ = finished
    process = train(folder, "resume=run", typed)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith(f"error: {words}")


def test_a_run_killed_right_after_its_last_checkpoint_still_ends_whole(tmp_path):
    """All that is left to do then is the test and the files that are drawn at the end."""
    whole = tmp_path / "whole"
    assert train(tmp_path, *TINY, "hydra.run.dir=whole").returncode == 0
    expected, rows = figures(whole), (whole / "metrics.csv").read_bytes()
    (whole / "results.json").unlink()
    continued = train(tmp_path, "resume=whole")
    assert continued.returncode == 0, continued.stderr
    assert figures(whole) == expected
    assert (whole / "metrics.csv").read_bytes() == rows


ENDED = {
    "early_stopping.patience=0": ("rerun=run starts a new run", "trainer.max_epochs=60"),
    "trainer.max_steps=20": ("trainer.max_steps= goes on", "test=true"),
    "trainer.max_epochs=2": ("trainer.max_epochs=4 goes on", "trainer.max_epochs=1"),
}


@pytest.mark.parametrize("limit", ENDED)
def test_a_complete_run_is_not_continued_and_says_what_would_go_on(tmp_path, limit):
    mend, typed = ENDED[limit]
    early = ["trainer.max_epochs=50", "early_stopping.min_delta=0.9", "model=linear"]
    begun = train(tmp_path, *TINY, *early, limit, "hydra.run.dir=run")
    assert ("  continue " in begun.stdout) == ("max_epochs" in limit)
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    for more in ([], [typed], ["report=true"]):
        refused = train(tmp_path, "resume=run", *more)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == f"error: resume=run: nothing to continue: it is complete after 2 epochs; {mend}\n"
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before
