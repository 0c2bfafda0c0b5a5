"""`logger=`: who is told of a run beside its directory."""

from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from smallvision.build import build
from smallvision.errors import Refusal, did_you_mean

# What a config may tell a logger. Theirs have others, which start programs (wandb's settings) or choose
# folders to write to.
KEYS = (
    "name", "_target_", "experiment_name", "tracking_uri", "project", "offline", "entity", "group", "notes",
    "prefix", "run_id", "run_name", "tags",
)  # fmt: skip


def make_logger(config: dict[str, Any], run_dir: Path) -> Logger | None:
    """The logger of that choice, or None for csv."""
    name = config["name"]
    if config["_target_"] is None:
        return None
    config = {key: value for key, value in config.items() if key != "graph"}  # told at the run's end
    for key in config:
        if key not in KEYS:
            raise Refusal(f"logger.{key}: not allowed here.{did_you_mean(key, KEYS[2:])}")
    places = {"save_dir": str(run_dir)}
    if name == "tensorboard":
        places |= {"name": "", "version": ""}
    if name == "mlflow" and config["tracking_uri"] is None:
        config = {**config, "tracking_uri": f"file:{run_dir.resolve() / 'mlruns'}"}
    if name == "wandb":
        places["name"] = run_dir.name
    logger: Logger = build("logger", config, **places)
    return logger
