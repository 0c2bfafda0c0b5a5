"""Checkpoints of the first smallvision, made here by hand, are tested and continued by this one."""

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers.command import results
from helpers.comparison import same_end, same_files
from helpers.forks import Forks

from smallvision.data.shapes import shapes
from smallvision.models import LeNet5

# As the first smallvision composed `data=shapes model=lenet5`: sections and keys that came later are missing.
CONFIG: dict[str, Any] = {
    "seed": 0,
    "data_dir": "data",
    "trainer": {
        "max_epochs": 2, "min_epochs": None, "max_steps": -1, "max_time": None, "limit_train_batches": None,
        "limit_val_batches": None, "limit_test_batches": None, "check_val_every_n_epoch": 1,
        "accumulate_grad_batches": 1, "gradient_clip_val": None, "gradient_clip_algorithm": None,
        "deterministic": True, "detect_anomaly": False, "profiler": None, "devices": 1, "strategy": "auto",
        "num_nodes": 1,
    },
    "early_stopping": {"patience": None, "min_delta": 0.0},
    "task": "fit",
    "checkpoint": {"every_n_steps": None},
    "data": {
        "name": "shapes", "_target_": "smallvision.data.shapes.shapes", "images": 200, "test_images": 40,
        "size": 14, "channels": 1, "classes": 10, "difficulty": 0.5, "seed": 0, "val_size": 40,
        "batch_size": 32, "eval_batch_size": 1000, "drop_last": False,
        "augmentation": {"flip": False, "shift": 0, "cutout": 0},
        "normalisation": {"mean": None, "std": None},
    },
    "model": {"name": "lenet5", "_target_": "smallvision.models.LeNet5"},
    "optimizer": {
        "name": "adam", "_target_": "torch.optim.Adam", "lr": 0.001, "betas": [0.9, 0.999], "eps": 1e-08,
        "weight_decay": 0.0, "amsgrad": False, "foreach": None, "maximize": False, "capturable": False,
        "differentiable": False, "fused": None, "decoupled_weight_decay": False,
    },
    "scheduler": {"name": "cosine", "_target_": "smallvision.training.schedules.cosine", "warmup": 0.0,
                  "final": 0.0},
    "device": {"name": "cpu", "precision": "32", "memory_format": "auto", "threads": 1},
    "logger": {"name": "csv", "_target_": None},
}  # fmt: skip
STEPS = 5  # of its one epoch
MEAN, STD = [0.5], [0.25]


def counts(names: tuple[str, ...], **each: int) -> dict[str, Any]:
    return {part: {name: each.get(name, STEPS) for name in names} for part in ("total", "current")}


def first_checkpoint() -> dict[str, Any]:
    """After one epoch of two: weights, Adam's state and Lightning's counts, numbered as a program would."""
    torch.manual_seed(0)
    network = LeNet5(channels=1, size=(14, 14), classes=10)
    data = shapes(images=200, test_images=40, size=14)
    parameters = dict(network.named_parameters())
    state = {
        number: {
            "step": torch.tensor(float(STEPS)),
            "exp_avg": 1e-3 * torch.randn_like(parameter),
            "exp_avg_sq": 1e-5 * torch.rand_like(parameter),
        }
        for number, parameter in enumerate(parameters.values())
    }
    group = {key: value for key, value in CONFIG["optimizer"].items() if key not in ("name", "_target_")}
    batch, step, zero = (
        ("ready", "completed", "started", "processed"),
        ("ready", "completed"),
        ("ready", "completed", "started"),
    )
    row = {
        "epoch": 1,
        "step": STEPS,
        "lr": 5e-4,
        "train/loss": 2.3,
        "train/acc": 0.1,
        "val/loss": 2.2,
        "val/acc": 0.2,
    }
    return {
        "epoch": 0,
        "global_step": STEPS,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": {f"network.{name}": parameter.detach() for name, parameter in parameters.items()},
        "loops": {
            "fit_loop": {
                "state_dict": {"combined_loader": [{"epoch": 0, "batch": STEPS}]},
                "epoch_loop.state_dict": {"_batches_that_stepped": STEPS},
                "epoch_loop.batch_progress": {**counts(batch), "is_last_batch": True},
                "epoch_loop.scheduler_progress": counts(step),
                "epoch_loop.automatic_optimization.state_dict": {},
                "epoch_loop.automatic_optimization.optim_progress": {
                    "optimizer": {"step": counts(step), "zero_grad": counts(zero)}
                },
                "epoch_loop.val_loop.state_dict": {},
                "epoch_loop.val_loop.batch_progress": {
                    **counts(batch, **dict.fromkeys(batch, 1)), "is_last_batch": True
                },
                "epoch_progress": counts(batch, ready=1, completed=0, started=1, processed=1),
            },
            **{
                f"{name}_loop": {
                    "state_dict": {},
                    "batch_progress": {**counts(batch, **dict.fromkeys(batch, 0)), "is_last_batch": False},
                }
                for name in ("validate", "test", "predict")
            },
        },
        "callbacks": {
            "Keeper": {"history": [row], "best": row, "seconds": 1.0, "train_seconds": 0.5, "images": 160}
        },
        "optimizer_states": [
            {
                "state": state,
                "param_groups": [
                    {**group, "lr": 5e-4, "initial_lr": 0.001, "params": list(range(len(state)))}
                ],
            }
        ],
        "lr_schedulers": [
            {"base_lrs": [0.001], "last_epoch": STEPS, "_step_count": STEPS + 1, "_is_initial": False,
             "_get_lr_called_within_step": False, "_last_lr": [5e-4], "lr_lambdas": [None]}
        ],
        "smallvision": {
            "format": 1, "config": deepcopy(CONFIG), "shape": [1, 14, 14], "classes": list(data.classes),
            "mean": MEAN, "std": STD, "data": data.identity,
            "epoch_sums": {
                "loss": torch.tensor(368.0), "correct": torch.tensor(16), "count": torch.tensor(160)
            },
        },
    }  # fmt: skip


def run_of(folder: Path, saved: dict[str, Any]) -> Path:
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(saved["smallvision"]["config"]))
    for name in ("best", "last"):
        torch.save(saved, folder / f"checkpoints/{name}.ckpt")
    return folder


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    process = Forks()
    yield process
    process.close()


def test_the_first_format_is_tested(tmp_path: Path, forks: Forks) -> None:
    saved = first_checkpoint()
    torch.save(saved, tmp_path / "old.ckpt")
    ended = forks.run(tmp_path, ["task=test", "checkpoint=old.ckpt", "hydra.run.dir=tested"])
    assert ended["code"] == 0, (tmp_path / "out.txt").read_text()
    network = LeNet5(channels=1, size=(14, 14), classes=10).eval()
    network.load_state_dict({name.removeprefix("network."): one for name, one in saved["state_dict"].items()})
    data = shapes(images=200, test_images=40, size=14)
    with torch.no_grad():
        logits = network((data.test_images / 255 - MEAN[0]) / STD[0])
    found = results(tmp_path / "tested")
    assert found["metrics"]["test/acc"] == (logits.argmax(1) == data.test_labels).double().mean().item()
    expected = torch.nn.functional.cross_entropy(logits, data.test_labels).item()
    assert found["metrics"]["test/loss"] == pytest.approx(expected, rel=1e-5)
    assert (found["epochs"], found["steps"]) == (1, STEPS)


def test_the_first_format_is_continued_with_each_parameter_s_own_state(tmp_path: Path, forks: Forks) -> None:
    """Beside it the same run as today's format has it, which numbers matrices, vectors and head apart."""
    old = first_checkpoint()
    then = [name.removeprefix("network.") for name in old["state_dict"]]
    head = [name for name in then if name.startswith("classifier.4.")]
    now = [name for kind in ("weight", "bias") for name in then if name.endswith(kind) and name not in head] + head
    assert now != then
    new = deepcopy(old)
    state = old["optimizer_states"][0]["state"]
    new["optimizer_states"][0]["state"] = {number: state[then.index(name)] for number, name in enumerate(now)}
    new["smallvision"]["position"] = {"epoch": 0, "batch": STEPS}
    none = {"lr": None, "weight_decay": None}
    new["smallvision"]["config"]["param_groups"] = {kind: none for kind in ("weight", "bias", "norm", "head")}
    for name, saved in (("old", old), ("new", new)):
        run = run_of(tmp_path / name, saved)
        ended = forks.run(tmp_path, [f"resume={name}"])
        assert ended["code"] == 0, (tmp_path / "out.txt").read_text()
        found = results(run)
        assert (found["status"], found["epochs"], found["steps"]) == ("completed", 2, 2 * STEPS)
        rows = (run / "metrics.csv").read_text().splitlines()
        assert rows[1] == f"1,{STEPS},0.0005,2.3,0.1,2.2,0.2"
        assert rows[2].startswith(f"2,{2 * STEPS},")
    assert same_end(tmp_path / "old", tmp_path / "new")
    assert same_files(tmp_path / "old", tmp_path / "new")


@pytest.mark.parametrize("verb", ["test", "resume"])
def test_a_younger_format_is_refused_in_one_line(tmp_path: Path, forks: Forks, verb: str) -> None:
    saved = first_checkpoint()
    saved["smallvision"]["format"] = 2
    file = run_of(tmp_path / "young", saved) / "checkpoints/last.ckpt"
    typed = ["resume=young"] if verb == "resume" else ["task=test", f"checkpoint={file.relative_to(tmp_path)}"]
    (tmp_path / "young/checkpoints/best.ckpt").unlink()
    ended = forks.run(tmp_path, typed, err="err.txt")
    said = (tmp_path / "err.txt").read_text()
    assert ended["code"] == 2
    assert said.startswith(
        "error: young/checkpoints/last.ckpt: written in format 2, this smallvision reads up to 1; use the"
    )
    assert said.count("\n") == 1
