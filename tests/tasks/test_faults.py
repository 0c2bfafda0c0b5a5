"""What goes wrong while a run trains is told, and what was saved before stays."""

import contextlib
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from helpers.command import TINY, results
from helpers.comparison import same_end, same_files
from helpers.forks import shared, start, train

from smallvision.config.compose import compose
from smallvision.config.resolve import resolve_config
from smallvision.core.errors import UserError
from smallvision.training.callbacks.terminate_on_nan import explain_out_of_memory
from smallvision.training.checkpoint import read_checkpoint


def saved_step(run: Path) -> int:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def test_a_loss_that_is_no_number_ends_the_run_at_that_step_and_keeps_what_was_good(tmp_path):
    typed = [*TINY, "data.images=2000", "checkpoint.every_n_steps=5", "hydra.run.dir=run"]
    begun = train(tmp_path, *typed, "optimizer=sgd", "trainer.max_epochs=1")
    assert begun.returncode == 0, begun.stderr
    good = saved_step(tmp_path / "run")
    config = tmp_path / "run/config.yaml"
    config.write_text(re.sub(r"^  lr: 0.*$", "  lr: 1.0e+30", config.read_text(), count=1, flags=re.MULTILINE))
    process = train(tmp_path, "resume=run", "trainer.max_epochs=3")
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    told = re.search(r"the loss turned (nan|inf) in epoch 2, step (\d+), batch (\d+) ", process.stderr)
    assert told, process.stderr
    assert int(told[2]) == good + int(told[3])
    assert "lower optimizer.lr (now 1e+30)" in process.stderr
    assert results(tmp_path / "run")["status"] == "failed"
    assert saved_step(tmp_path / "run") < int(told[2])
    weights = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())
    assert (tmp_path / "run/train.log").is_file()


def test_a_full_disk_does_not_end_training_and_is_told(tmp_path):
    """Files of this process cannot grow beyond 40 kB: logs and figures fit, checkpoints do not."""
    typed = [*TINY, "model=fashion_mnist", "model.hidden=[64]", "checkpoint.every_n_steps=7"]
    ended = shared().run(tmp_path, [*typed, "hydra.run.dir=run"], file_size=40_000)
    out = (tmp_path / "out.txt").read_text()
    assert ended["code"] == 0, out
    assert "could not save run/checkpoints/last.ckpt: File too large; training goes on" in out
    found = results(tmp_path / "run")
    assert found["status"] == "completed"
    assert found["epochs"] == 2
    assert any(line == "best.ckpt: File too large" for line in found["unsaved"])
    assert found["metrics"]["test/acc"] is None
    assert not list((tmp_path / "run/checkpoints").iterdir())


# A model of 2,500 parameters, whose checkpoint takes 44 kB.
FITTING = ["data=shapes", "data.images=400", "data.test_images=40", "data.val_size=40", "data.size=12",
           "model=fashion_mnist", "model.hidden=[16]", "device=cpu"]  # fmt: skip


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A file system of 140 kB in memory, and what makes it larger; RLIMIT_FSIZE stands in above without."""
    disk = tmp_path / "disk"
    disk.mkdir()

    def mount(options: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = ["mount", "-t", "tmpfs", "-o", options, *more, "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True, text=True)

    mounted = mount("size=140k")
    if mounted.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk, lambda size: mount(f"remount,size={size}").check_returncode()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_system_that_fills_up_does_not_end_training_and_with_space_it_goes_on(tmp_path, small_disk):
    """There is room for one checkpoint and for what is written beside it, not for the next."""
    disk, enlarge = small_disk
    process = train(tmp_path, *FITTING, "trainer.max_epochs=4", "hydra.run.dir=disk/run")
    assert (process.returncode, process.stderr) == (0, "")
    run = disk / "run"
    assert "No space left on device; training goes on" in process.stdout
    found = results(run)
    assert (found["status"], found["epochs"]) == ("completed", 4)
    assert any("No space left on device" in line for line in found["unsaved"])
    assert not list(run.rglob(".*.part"))
    left = [read_checkpoint(file).step for file in run.glob("checkpoints/*.ckpt")]  # whole, all of them
    assert left
    assert max(left) < found["steps"]

    enlarge("2m")
    whole = train(tmp_path, *FITTING, "trainer.max_epochs=4", "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    continued = train(tmp_path, "resume=disk/run")
    assert (continued.returncode, continued.stderr) == (0, "")
    assert results(run)["unsaved"] == []
    assert same_end(tmp_path / "whole", run)
    assert same_files(tmp_path / "whole", run)


def test_a_file_system_that_is_full_for_a_while_leaves_a_good_checkpoint_after_it(tmp_path, small_disk):
    disk, enlarge = small_disk
    enlarge("1m")
    # No validation, in which a run that is interrupted does not save.
    process = start(tmp_path, *FITTING, "trainer.max_epochs=4000", "trainer.check_val_every_n_epoch=4000",
                    "checkpoint.every_n_steps=5", "hydra.run.dir=disk/run")  # fmt: skip
    last = disk / "run/checkpoints/last.ckpt"

    def until(holds: Callable[[], bool]) -> None:
        while not holds():
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)

    until(last.is_file)
    with (disk / "ballast").open("wb", buffering=0) as ballast:

        def filled() -> int:
            """Bytes until the disk was full."""
            before = ballast.tell()
            with contextlib.suppress(OSError):
                while True:
                    ballast.write(bytes(4096))
            return ballast.tell() - before

        # A save that was under way gives back what it took, so the disk is full only when none is.
        until(lambda: filled() == 0 and not list((disk / "run").rglob(".*.part")) and filled() == 0)
    before = last.stat().st_mtime_ns
    until(lambda: "could not save" in process.out.read_text())
    assert last.stat().st_mtime_ns == before
    (disk / "ballast").unlink()
    until(lambda: last.stat().st_mtime_ns > before)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = results(disk / "run")
    assert found["status"] == "interrupted"
    assert any("No space left on device" in line for line in found["unsaved"])
    assert read_checkpoint(last).step == found["steps"]


def test_a_file_system_without_room_for_the_results_is_told_in_one_line_and_the_run_ends_there_later(
    tmp_path, small_disk
):
    disk, enlarge = small_disk
    enlarge("1m")
    process = start(tmp_path, *FITTING, "trainer.max_epochs=30", "hydra.run.dir=disk/run")
    while not (disk / "run/checkpoints/last.ckpt").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    with (disk / "ballast").open("wb", buffering=0) as ballast:
        while process.poll() is None:
            with contextlib.suppress(OSError):
                ballast.write(bytes(4096))
    out, err = process.communicate(timeout=240)
    assert process.returncode == 2, out
    assert err.startswith("error: disk/run/results.json: cannot be written: No space left on device; with free")
    assert err.count("\n") == 1
    (disk / "ballast").unlink()
    whole = train(tmp_path, *FITTING, "trainer.max_epochs=30", "hydra.run.dir=whole")
    assert whole.returncode == 0, whole.stderr
    continued = train(tmp_path, "resume=disk/run")
    assert (continued.returncode, continued.stderr) == (0, "")
    assert same_end(tmp_path / "whole", disk / "run")


def test_a_folder_that_vanishes_is_made_again(tmp_path):
    process = start(tmp_path, *TINY, "data.images=3000", "trainer.max_epochs=4", "hydra.run.dir=run",
                    "checkpoint.every_n_steps=2")  # fmt: skip
    folder = tmp_path / "run/checkpoints"
    while not (folder / "last.ckpt").is_file():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    shutil.rmtree(folder, ignore_errors=True)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert results(tmp_path / "run")["status"] == "completed"
    assert saved_step(tmp_path / "run") == results(tmp_path / "run")["steps"]


def test_a_run_that_a_process_is_at_work_on_is_not_continued_by_another(tmp_path):
    first = start(tmp_path, *TINY, "data.images=20000", "trainer.max_epochs=50", "hydra.run.dir=run",
                  "checkpoint.every_n_steps=2")  # fmt: skip
    while not (tmp_path / "run/checkpoints/last.ckpt").is_file():
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    second = train(tmp_path, "resume=run")
    assert second.returncode == 2
    assert second.stderr == "error: run: another process is at work on this run; wait for its end\n"
    assert first.poll() is None
    first.kill()
    first.communicate()
    third = train(tmp_path, "resume=run", "trainer.max_steps=3")
    assert third.returncode == 0, third.stderr


def test_a_run_does_not_go_back_to_an_epoch_before(tmp_path):
    assert train(tmp_path, *TINY, "hydra.run.dir=run").returncode == 0
    (tmp_path / "run/results.json").unlink()  # as if it had been killed
    process = train(tmp_path, "resume=run", "trainer.max_epochs=1")
    assert process.returncode == 2
    assert process.stderr == "error: trainer.max_epochs=1: the run is in epoch 2 already\n"


def test_a_damaged_checkpoint_is_told_and_the_one_before_continued(tmp_path):
    typed = [*TINY, "data.images=1000", "hydra.run.dir=run"]
    whole = train(tmp_path, *typed)
    assert whole.returncode == 0, whole.stderr
    last = tmp_path / "run/checkpoints/last.ckpt"
    shutil.copytree(tmp_path / "run", tmp_path / "cut")
    last = tmp_path / "cut/checkpoints/last.ckpt"
    last.write_bytes(last.read_bytes()[:-1000])
    (tmp_path / "cut/results.json").unlink()
    process = train(tmp_path, "resume=cut")
    assert process.returncode == 0, process.stderr
    assert "damaged    cut/checkpoints/last.ckpt" in process.stdout
    assert results(tmp_path / "cut")["metrics"] == results(tmp_path / "run")["metrics"]


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(),
     RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")],
)  # fmt: skip
def test_out_of_memory_says_what_to_lower(error):
    config = resolve_config(compose(["data.batch_size=4096"]), [])
    with pytest.raises(UserError, match=r"lower data.batch_size \(now 4096"), explain_out_of_memory(config):
        raise error


class SomeError(RuntimeError):
    pass


@pytest.mark.parametrize("error", [RuntimeError("something else"), SomeError("job killed"), NotImplementedError("no")])
def test_another_fault_is_not_taken_for_it(error):
    config = resolve_config(compose([]), [])
    with pytest.raises(type(error), match=str(error)), explain_out_of_memory(config):
        raise error


@pytest.mark.parametrize(("part", "count"), [("train", 10), ("val", 1), ("test", 1)])
def test_a_fraction_of_less_than_one_batch_is_refused_before_training(tmp_path, part, count):
    process = train(tmp_path, *TINY, f"trainer.limit_{part}_batches=0.05", "hydra.run.dir=run")
    assert process.returncode == 2
    assert process.stderr == (
        f"error: trainer.limit_{part}_batches=0.05: less than one batch of {count};"
        f" type a number of batches, or a fraction of at least 1/{count}\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("typed", "words"),
    [("+trainer.val_check_interval=1000", "trainer: `val_check_interval` (1000) must be less than or equal"),
     ("+trainer.overfit_batches=0.05", "trainer: You requested to check 0.05 of the `train_dataloader`"),
     ("+trainer.barebones=true", "trainer: `Trainer(barebones=True"),
     ("+trainer.precision=64-true", "trainer.precision: type device.precision=64-true instead")],
)  # fmt: skip
def test_what_the_trainer_refuses_is_one_line(tmp_path, typed, words):
    process = train(tmp_path, *TINY, typed)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: {words}")
    assert process.stderr.count("\n") == 1
