"""The config of a command line, in this process."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from smallvision.config.compose import resolve_config
from smallvision.config.schema import Config

CONFIGS = Path(__file__).parents[2] / "configs"


def resolved(*typed: str) -> Config:
    """What ``python train.py typed`` goes by."""
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return resolve_config(compose("train", [*typed], return_hydra_config=True), [*typed])
