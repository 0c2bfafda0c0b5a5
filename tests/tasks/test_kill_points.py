"""A run killed at any instant, several times over, ends where an undisturbed one ends, to the bit.

`pytest tests/tasks/test_kill_points.py --kill-points 200 -n 0` tries as many instants as asked for.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command import NO_NETWORK
from compared import same_end, same_files

COMMON = [
    "data=shapes", "data.images=320", "data.val_size=64", "data.test_images=64", "data.size=12",
    "data.batch_size=32", "device=cpu", "device.threads=1", "trainer.max_epochs=4",
]  # fmt: skip
RUNS = {
    "sgd, one cycle": ["model=mnist", "optimizer=sgd", "scheduler=one_cycle", "data.augmentation.shift=2"],
    "adam, dropout": ["model=fashion_mnist", "model.hidden=[32]", "model.dropout=0.4", "optimizer=adam"],
    "adamw, batch norm": ["model=cifar10", "model.widths=[8,8]", "model.depths=[0,1]", "optimizer=adamw",
                          "data.augmentation.flip=true", "trainer.accumulate_grad_batches=2"],
    "muon, whitening": ["model=airbench", "model.widths=[8,8]", "optimizer=muon", "data.channels=3",
                        "data.normalisation.whiten=2", "data.augmentation.flip=alternating",
                        "tta.flip=true", "early_stopping.patience=2"],
}  # fmt: skip


class Forks:
    """A process that has imported everything and runs command lines in forks of itself."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parents[1] / "forked.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **NO_NETWORK, "OMP_NUM_THREADS": "1"},
            text=True,
        )

    def run(self, cwd: Path, argv: list[str], seconds: float | None = None) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"cwd": str(cwd), "argv": argv, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    process = Forks()
    yield process
    process.close()


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
