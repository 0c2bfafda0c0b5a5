"""`logger=`: who is told of a run beside its directory."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from smallvision.build import build
from smallvision.errors import Refusal

# Logger: the module that it needs, what installs it, and its arguments that are a place in the run directory.
NEEDS = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "wandb": ("wandb", "wandb"),
}


def make_logger(config: dict[str, Any], run_dir: Path) -> Logger | None:
    """The logger of that choice, or None for csv; Refusal where its package is not installed."""
    name = config["name"]
    if config["_target_"] is None:
        return None
    module, package = NEEDS.get(name, (name, name))
    if find_spec(module) is None:
        raise Refusal(f"logger={name}: needs a package that is not here; pip install {package}")
    places = {"save_dir": str(run_dir)}
    if name == "tensorboard":
        places |= {"name": "", "version": ""}
    if name == "mlflow" and config["tracking_uri"] is None:
        config = {**config, "tracking_uri": f"file:{run_dir.resolve() / 'mlruns'}"}
    if name == "wandb":
        places["name"] = run_dir.name
    logger: Logger = build("logger", config, **places)
    return logger
