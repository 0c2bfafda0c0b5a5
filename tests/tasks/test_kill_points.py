"""A run killed at any instant, several times over, ends where an undisturbed one ends, to the bit.

`pytest tests/tasks/test_kill_points.py --kill-points 200 -n 0` tries as many instants as asked for.
"""

import random
from pathlib import Path

import pytest
from helpers.comparison import same_end, same_files
from helpers.forks import Forks, shared

COMMON = [
    "data=shapes", "data.images=320", "data.val_size=64", "data.test_images=64", "data.size=12",
    "data.batch_size=32", "device=cpu", "device.threads=1", "trainer.max_epochs=4",
    "report=false",
]  # fmt: skip
RUNS = {
    "sgd, one cycle": ["model=mnist", "optimizer=sgd", "scheduler=one_cycle", "data.augmentation.shift=2"],
    "adam, cosine, dropout": ["model=fashion_mnist", "model.hidden=[32]", "model.dropout=0.4",
                              "optimizer=adam", "optimizer.amsgrad=true", "scheduler=cosine",
                              "data.shuffle=false", "+trainer.val_check_interval=0.5"],
    "adamw, linear, batch norm": ["model=cifar10", "model.widths=[8,8]", "model.depths=[0,1]",
                                  "optimizer=adamw", "scheduler=linear", "data.augmentation.flip=true",
                                  "trainer.accumulate_grad_batches=2"],
    "muon, warm-up, whitening": ["model=airbench", "model.widths=[8,8]", "optimizer=muon", "scheduler=none",
                                 "scheduler.warmup=0.2", "data.channels=3", "data.normalisation.whiten=2",
                                 "data.augmentation.flip=alternating", "data.augmentation.rotate=10",
                                 "param_groups.head.lr=0.02", "tta.flip=true", "tta.shift=1"],
    "nesterov, early stopping": ["model=lenet5", "optimizer=sgd", "optimizer.nesterov=true",
                                 "optimizer.lr=0.3", "data.size=14", "loss.label_smoothing=0.1",
                                 "data.augmentation.rotate=10", "early_stopping.patience=1",
                                 "trainer.gradient_clip_val=1"],
}  # fmt: skip


@pytest.fixture
def forks() -> Forks:
    return shared()


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_killed_at_random_instants_ends_where_an_undisturbed_one_ends(
    tmp_path: Path, kind: str, forks: Forks, request: pytest.FixtureRequest
) -> None:
    points = request.config.getoption("--kill-points") // len(RUNS)
    typed = [*COMMON, *RUNS[kind]]
    whole = forks.run(tmp_path, [*typed, "hydra.run.dir=whole"])
    assert whole["code"] == 0, (tmp_path / "out.txt").read_text()
    instants = random.Random(kind)
    killed = attempt = 0
    while killed < points:
        attempt += 1
        cut = tmp_path / f"cut{attempt}"
        saving = instants.choice(["every_n_steps=1", "every_n_steps=4", "every_n_minutes=0.0001"])
        command = [*typed, f"checkpoint.{saving}", f"hydra.run.dir={cut.name}"]
        for _ in range(instants.randint(1, 3)):
            ended = forks.run(tmp_path, command, instants.uniform(0.05, whole["seconds"]))
            killed += ended["code"] == -9
            if ended["code"] == 0:
                break
            assert ended["code"] == -9, (tmp_path / "out.txt").read_text()
            if (cut / "config.yaml").is_file():
                command = [f"resume={cut.name}"]
        if ended["code"] != 0:
            ended = forks.run(tmp_path, command)
        assert ended["code"] == 0, (tmp_path / "out.txt").read_text()
        assert same_end(tmp_path / "whole", cut), f"{killed} kills, seed {kind!r}"
        assert same_files(tmp_path / "whole", cut)
        assert not list(cut.rglob(".*.part")), "half a file was left"
    print(f"{kind}: {killed} kills in {attempt} runs, all resumed to the same bits")
