"""The loggers that get a run's metrics in addition to its directory."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.forks import train
from lightning.pytorch.loggers import TensorBoardLogger

from smallvision.config.schema import Logger
from smallvision.core.errors import UserError
from smallvision.training import loggers
from smallvision.training.loggers import make_logger

TENSORBOARD = {"name": "tensorboard", "_target_": "lightning.pytorch.loggers.TensorBoardLogger"}
MLFLOW = {"name": "mlflow", "_target_": "lightning.pytorch.loggers.MLFlowLogger", "experiment_name": "x"}
WANDB = {
    "name": "wandb",
    "_target_": "lightning.pytorch.loggers.WandbLogger",
    "project": "x",
    "offline": True,
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the logger would have been built with."""
    seen: dict[str, Any] = {}

    def instantiate(section: str, config: Logger, **places: Any) -> SimpleNamespace:
        assert section == "logger"
        seen.update(config.to_dict(), **{f"place of {name}": place for name, place in places.items()})
        return SimpleNamespace()

    monkeypatch.setattr(loggers, "instantiate", instantiate)
    return seen


def test_csv_needs_no_logger(tmp_path: Path) -> None:
    assert make_logger(Logger("csv", None), tmp_path) is None


def test_tensorboard_writes_into_the_run_directory(tmp_path: Path) -> None:
    logger = make_logger(Logger.from_dict(TENSORBOARD), tmp_path)
    assert isinstance(logger, TensorBoardLogger)
    logger.log_metrics({"val/acc": 0.5}, step=1)
    logger.finalize("success")
    assert [file.is_file() for file in tmp_path.glob("events.*")] == [True]


def test_mlflow_writes_into_the_run_directory_unless_a_server_is_named(tmp_path: Path, asked: dict[str, Any]) -> None:
    make_logger(Logger.from_dict({**MLFLOW, "tracking_uri": None}), tmp_path)
    assert asked["tracking_uri"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert asked["place of artifact_location"] == f"file://{tmp_path}/mlruns"
    make_logger(Logger.from_dict({**MLFLOW, "tracking_uri": "http://server"}), tmp_path)
    assert asked["tracking_uri"] == "http://server"


class Unreachable:
    @property
    def experiment(self) -> None:
        raise OSError("no answer\nfrom there")


def test_a_logger_that_cannot_start_is_refused_in_one_line_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loggers, "instantiate", lambda *_, **__: Unreachable())
    with pytest.raises(UserError, match=r"^logger=mlflow: cannot start: no answer from there$"):
        make_logger(Logger.from_dict({**MLFLOW, "tracking_uri": None}), tmp_path)
    (tmp_path / "modules/wandb").mkdir(parents=True)  # found, but no package that Lightning takes
    (tmp_path / "modules/wandb/__init__.py").touch()
    typed = ("data=folder", "data.path=modules", "logger=wandb", "hydra.run.dir=run")  # the folder holds no images
    process = train(tmp_path, *typed, modules=str(tmp_path / "modules"))
    assert process.returncode == 2
    assert process.stderr.startswith("error: logger=wandb: ")
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_wandb_calls_the_run_as_its_directory(tmp_path: Path, asked: dict[str, Any]) -> None:
    make_logger(Logger.from_dict(WANDB), tmp_path / "2026-01-02")
    assert asked["place of name"] == "2026-01-02"
    assert asked["place of save_dir"] == str(tmp_path / "2026-01-02")


def test_the_config_is_not_changed(tmp_path: Path, asked: dict[str, Any]) -> None:
    config = Logger.from_dict({**MLFLOW, "tracking_uri": None})
    make_logger(config, tmp_path)
    assert config.to_dict() == {**MLFLOW, "tracking_uri": None}


def test_a_target_that_is_no_logger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logger\._target_"):
        make_logger(Logger("tensorboard", "os.system"), tmp_path)


@pytest.mark.parametrize("key", ["settings", "version", "dir", "save_dir", "artifact_location"])
def test_a_config_chooses_no_program_and_no_folder_of_a_logger_s(tmp_path: Path, key: str) -> None:
    with pytest.raises(UserError, match=f"logger.{key}: not allowed here"):
        make_logger(Logger.from_dict({**WANDB, key: "x"}), tmp_path)
