"""What goes wrong while a run trains is told, and what was saved before stays."""

import os
import re
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from command import NO_NETWORK, TINY, TRAIN, results, start, train

from smallvision.errors import Refusal
from smallvision.training.faults import told_what_to_lower


def saved_step(run: Path) -> int:
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]


def test_a_loss_that_is_no_number_ends_the_run_at_that_step_and_keeps_what_was_good(tmp_path):
    typed = [*TINY, "data.images=2000", "checkpoint.every_n_steps=5", "hydra.run.dir=run"]
    begun = train(tmp_path, *typed, "optimizer=sgd", "trainer.max_epochs=1")
    assert begun.returncode == 0, begun.stderr
    good = saved_step(tmp_path / "run")
    process = train(tmp_path, "resume=run", "trainer.max_epochs=3", "optimizer.lr=1e30")
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
    process = subprocess.run(
        [sys.executable, str(TRAIN), *typed, "hydra.run.dir=run"],
        cwd=tmp_path,
        env={**os.environ, **NO_NETWORK},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "could not save run/checkpoints/last.ckpt: File too large; training goes on" in process.stdout
    found = results(tmp_path / "run")
    assert found["status"] == "completed"
    assert found["epochs"] == 2
    assert any(line == "best.ckpt: File too large" for line in found["unsaved"])
    assert found["metrics"]["test/acc"] is None
    assert not list((tmp_path / "run/checkpoints").iterdir())


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
    config = {"data": {"batch_size": 4096, "eval_batch_size": 1000}}
    with pytest.raises(Refusal, match=r"lower data.batch_size \(now 4096"), told_what_to_lower(config):
        raise error


def test_another_fault_is_not_taken_for_it():
    with pytest.raises(RuntimeError, match="something else"), told_what_to_lower({}):
        raise RuntimeError("something else")
