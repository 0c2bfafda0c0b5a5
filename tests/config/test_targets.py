"""Nothing is built but what stands on the list."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from smallvision.config import targets as builder
from smallvision.config.targets import check_target, instantiate, resolve
from smallvision.core.errors import UserError

HOSTILE = [
    "os.system", "subprocess.Popen", "builtins.eval", "eval", "", ".", "torch.load", "torch.hub.load",
    "hydra.utils.instantiate", "smallvision.models.", "smallvision.models.nn.Linear", "smallvision.models._x",
    "smallvision.models.__loader__", "smallvision.models.a b", "smallvision.models.x()", "torch.nn.Linear",
    "torch.optim..Adam", "torch.optim.swa_utils.AveragedModel", "smallvision.config.targets.build",
    "marker.touch",
    "smallvision.training.schedules.cosine ", "../x", None, 3, [], {}, True, "smallvision.models.\n",
]  # fmt: skip


@pytest.mark.parametrize("section", builder.ALLOWED)
@pytest.mark.parametrize("target", HOSTILE, ids=repr)
def test_what_is_not_on_the_list_is_refused_and_not_imported(
    section: str, target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    (tmp_path / "marker.py").write_text(f"open({str(mark)!r}, 'w')\ndef touch(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=f"{section}._target_"):
        instantiate(section, {"name": "x", "_target_": target})
    assert not mark.exists()
    assert "marker" not in sys.modules


@pytest.mark.parametrize(
    ("section", "target"),
    [
        ("model", "smallvision.models.nope"),
        ("model", "smallvision.models.basic"),
        ("optimizer", "torch.optim.Nope"),
        ("optimizer", "torch.optim.lr_scheduler"),
        ("optimizer", "torch.optim.sgd"),
        ("scheduler", "smallvision.training.schedules.math"),
        ("scheduler", "smallvision.training.schedules.Factor"),
        ("scheduler", "smallvision.training.schedules.Callable"),
        ("data", "smallvision.data.standard.Path"),
        ("data", "smallvision.data.standard.gzip"),
        ("data", "smallvision.data.standard.UserError"),
        ("logger", "lightning.pytorch.loggers.os"),
        ("logger", "lightning.pytorch.loggers.logger"),
        ("callbacks", "smallvision.training.callbacks.checkpointing.RunDir"),
    ],
)
def test_what_an_allowed_module_only_imports_is_refused(section: str, target: str) -> None:
    with pytest.raises(UserError, match="there is no such"):
        resolve(section, target)


@pytest.mark.parametrize(
    ("section", "target"),
    [
        ("model", "smallvision.models.LeNet5"),
        ("optimizer", "torch.optim.RMSprop"),
        ("scheduler", "smallvision.training.schedules.cosine"),
        ("data", "smallvision.data.shapes.shapes"),
        ("logger", "lightning.pytorch.loggers.CSVLogger"),
        ("callbacks", "smallvision.training.callbacks.progress.Progress"),
        ("callbacks", "lightning.pytorch.callbacks.Timer"),
    ],
)
def test_what_is_on_the_list_is_found(section: str, target: str) -> None:
    module, name = check_target(section, target)
    assert f"{module}.{name}" == target
    assert resolve(section, target).__name__ == name


def test_a_model_gets_its_own_arguments_and_what_the_program_knows() -> None:
    config = {"name": "mlp", "_target_": "smallvision.models.MLP", "hidden": [7], "dropout": 0.0}
    network = instantiate("model", config, channels=1, size=(4, 4), classes=3)
    assert isinstance(network, nn.Module)
    assert network(torch.zeros(2, 1, 4, 4)).shape == (2, 3)


def test_an_optimizer_gets_its_parameters() -> None:
    parameter = nn.Parameter(torch.zeros(3))
    made = instantiate("optimizer", {"name": "sgd", "_target_": "torch.optim.SGD", "lr": 0.5}, [parameter])
    assert made.param_groups[0]["lr"] == 0.5
    assert made.param_groups[0]["params"] == [parameter]


def test_what_the_target_does_not_take_from_the_program_is_left_out() -> None:
    config = {"name": "shapes", "_target_": "smallvision.data.shapes.shapes", "images": 4, "test_images": 2}
    assert instantiate("data", config, data_dir="nowhere") is not None


@pytest.mark.parametrize(
    ("section", "config", "said"),
    [
        ("scheduler", {"_target_": "smallvision.training.schedules.cosine", "warmpu": 1}, "'warmup'"),
        ("model", {"_target_": "smallvision.models.MLP", "hiden": [1]}, "'hidden'"),
        (
            "model",
            {"_target_": "smallvision.models.MLP", "hidden": [1], "dropout": 0, "classes": 7},
            "classes",
        ),
        ("optimizer", {"_target_": "torch.optim.SGD", "lr": 1, "lrr": 2}, "'lr'"),
    ],
)
def test_an_argument_that_the_target_does_not_have_is_refused(section: str, config: dict[str, Any], said: str) -> None:
    runtime = {"channels": 1, "size": (4, 4), "classes": 3} if section == "model" else {}
    arguments = [[nn.Parameter(torch.zeros(1))]] if section == "optimizer" else []
    with pytest.raises(UserError, match="no such key") as refused:
        instantiate(section, {"name": "x", **config}, *arguments, **runtime)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("section", "config"),
    [
        ("optimizer", {"_target_": "torch.optim.SGD", "lr": -1.0}),
        ("optimizer", {"_target_": "torch.optim.SGD", "lr": 1.0, "nesterov": True}),
        ("optimizer", {"_target_": "torch.optim.Adam", "lr": "x"}),
        ("model", {"_target_": "smallvision.models.MnistNet", "widths": [1, 2, 3]}),
        ("model", {"_target_": "smallvision.models.CifarNet", "widths": [1], "depths": [1, 2]}),
    ],
)
def test_what_the_target_itself_finds_impossible_is_refused(section: str, config: dict[str, Any]) -> None:
    runtime = {"channels": 1, "size": (28, 28), "classes": 3} if section == "model" else {}
    arguments = [[nn.Parameter(torch.zeros(1))]] if section == "optimizer" else []
    with pytest.raises(UserError, match=f"{section}=mine: "):
        instantiate(section, {"name": "mine", **config}, *arguments, **runtime)


def test_a_target_whose_package_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: object, **arguments: Any) -> None:
        raise ModuleNotFoundError("No module named 'wandb'")

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger.__init__", absent)
    config = {"name": "mine", "_target_": "lightning.pytorch.loggers.WandbLogger"}
    with pytest.raises(UserError, match="logger=mine: No module named 'wandb'"):
        instantiate("logger", config)
