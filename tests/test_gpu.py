"""On an NVIDIA GPU what holds on a processor. What needs no GPU is shown on the processor, too, by the same tests."""

import json
import signal
from pathlib import Path

import pytest
import torch
from helpers.command import TINY, refusal, results, start, succeeds, train, wait_until
from helpers.comparison import same_end, same_files

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU is here")
DEVICES = ["cpu", pytest.param("cuda", marks=needs_gpu)]
RUN = (*TINY, "model=cifar10", "model.widths=[8,8]", "model.depths=[0,1]", "data.channels=3", "optimizer=adamw",
       "data.augmentation.flip=true", "data.augmentation.shift=2", "trainer.deterministic=true")  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
def test_the_same_seed_twice_gives_the_same_bits(tmp_path: Path, device: str) -> None:
    for name in ("one", "other"):
        succeeds(train(tmp_path, *RUN, f"device={device}", f"hydra.run.dir={name}"))
    assert results(tmp_path / "one")["device"] == device
    assert same_end(tmp_path / "one", tmp_path / "other")
    assert same_files(tmp_path / "one", tmp_path / "other")


@pytest.mark.parametrize("device", DEVICES)
def test_a_killed_run_ends_where_an_undisturbed_one_ends(tmp_path: Path, device: str) -> None:
    typed = [*RUN, f"device={device}", "checkpoint.every_n_steps=3"]
    succeeds(train(tmp_path, *typed, "hydra.run.dir=whole"))
    process = start(tmp_path, *typed, "hydra.run.dir=cut")
    wait_until((tmp_path / "cut/checkpoints/last.ckpt").exists, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    succeeds(train(tmp_path, "resume=cut"))
    assert same_end(tmp_path / "whole", tmp_path / "cut")
    assert same_files(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize(
    ("device", "more"),
    [
        ("cpu", "device.precision=bf16-mixed"),
        ("cpu", "device.memory_format=channels_last"),
        pytest.param("cuda", "device.precision=bf16-mixed", marks=needs_gpu),
        pytest.param("cuda", "device.precision=16-mixed", marks=needs_gpu),
        pytest.param("cuda", "device.memory_format=channels_last", marks=needs_gpu),
        pytest.param("cuda", "device.compile=true", marks=needs_gpu),
    ],
)
def test_a_network_learns_in_every_precision_and_layout(tmp_path: Path, device: str, more: str) -> None:
    typed = [
        "data=digits",
        "model=lenet5",
        "optimizer=adam",
        "trainer.max_epochs=4",
        "report=false",
        f"device={device}",
    ]
    succeeds(train(tmp_path, *typed, more, "hydra.run.dir=run"))
    succeeds(train(tmp_path, *typed, "device.precision=32", "hydra.run.dir=plain"))
    found, plain = (results(tmp_path / name)["metrics"] for name in ("run", "plain"))
    assert found["val/acc"] > 0.5
    assert found["train/loss"] == pytest.approx(plain["train/loss"], rel=0.1)


@needs_gpu
def test_a_network_trained_on_a_gpu_predicts_the_same_on_a_processor(tmp_path: Path) -> None:
    succeeds(train(tmp_path, *RUN, "device=cuda", "hydra.run.dir=run"))
    again = ("task=test", "checkpoint=run/checkpoints/best.ckpt", "device=cpu", "hydra.run.dir=again")
    succeeds(train(tmp_path, *again))
    trained, tested = (results(tmp_path / name)["metrics"] for name in ("run", "again"))
    assert tested["test/loss"] == pytest.approx(trained["test/loss"], rel=1e-3)


@needs_gpu
def test_two_workers_share_a_gpu(tmp_path: Path) -> None:
    succeeds(train(tmp_path, "-m", *RUN, "device=cuda", "seed=1,2,3,4", "sweep.workers=2", "hydra.sweep.dir=sweep"))
    found = [json.loads(file.read_text()) for file in sorted((tmp_path / "sweep").glob("*/results.json"))]
    assert [one["status"] for one in found] == ["completed"] * 4
    assert {one["device"] for one in found} == {"cuda"}


@needs_gpu
def test_out_of_memory_on_a_gpu_says_what_to_lower(tmp_path: Path) -> None:
    too_much = ("model=cifar10", "model.widths=[4096,4096]", "data.batch_size=16384", "data.images=20000",
                "data.size=64", "trainer.max_epochs=1", "trainer.limit_train_batches=2")  # fmt: skip
    refused = refusal(train(tmp_path, "data=shapes", *too_much, "device=cuda"))
    assert "lower data.batch_size (now 16384" in refused


@needs_gpu
def test_bench_measures_a_gpu(tmp_path: Path) -> None:
    printed = succeeds(train(tmp_path, "task=bench", *TINY, "device=cuda", "bench.rounds=1", "bench.seconds=1"))
    assert "cuda" in printed
