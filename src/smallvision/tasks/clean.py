"""Remove the decoded images that data=folder keeps in data_dir/cache."""

from typing import TYPE_CHECKING

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.run_dir import RunDir
from smallvision.data.cache import cache_folder, clear

if TYPE_CHECKING:
    from smallvision.training.checkpoint import BareWeights, Checkpoint  # with torch, which this does not need


def run(config: Config, run_dir: RunDir | None, checkpoint: "Checkpoint | BareWeights | None") -> None:
    """Remove them, and print what that frees."""
    console, folder = Console(), cache_folder(config.data_dir)
    removed = clear(folder)
    for file, size in removed.items():
        console.fields({"removed": f"{file} ({size / 1e6:,.1f} MB)"})
    console.fields({"freed": f"{sum(removed.values()) / 1e6:,.1f} MB in {folder}"})
