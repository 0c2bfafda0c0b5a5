"""The config of a command line, in this process."""

from smallvision.config.compose import compose
from smallvision.config.resolve import checkpoint_to_read, force, resolve_config
from smallvision.config.schema import Config
from smallvision.training.checkpoint import read_checkpoint


def resolved(*typed: str) -> Config:
    """What ``python train.py typed`` goes by."""
    overrides = force([*typed])
    composed = compose(overrides)
    file = checkpoint_to_read(composed, overrides)
    saved = None if file is None else read_checkpoint(file).config
    return resolve_config(composed, overrides, saved)
