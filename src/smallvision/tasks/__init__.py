"""One file per verb of the command line, each with ``run(config, run) -> results``."""

import importlib
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from smallvision.cli import WITHOUT_DIRECTORY
from smallvision.config.compose import resolve_config
from smallvision.core.run_dir import opened


def run(composed: DictConfig) -> float | None:
    """Run the task of a composed config in the directory that Hydra made; gives val/acc to a sweep."""
    hydra = HydraConfig.get()
    typed = list(hydra.overrides.task)
    config = resolve_config(composed, typed)
    task = importlib.import_module(f"smallvision.tasks.{config['task']}")
    if config["task"] in WITHOUT_DIRECTORY:
        task.run(config)
        return None
    directory = Path(hydra.runtime.output_dir)
    if directory.is_relative_to(Path.cwd()):  # shorter to read and to type
        directory = directory.relative_to(Path.cwd())
    if config["task"] == "export":  # adds to a run that there is
        task.run(config, directory)
        return None
    with opened(directory, typed) as run:
        results: dict[str, Any] = task.run(config, run)
    return results["metrics"].get("val/acc")
