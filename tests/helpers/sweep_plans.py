"""Plans of sweeps, made without a command line."""

from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from helpers.command import TRAIN
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import Dimension, grid

# A run of half a second: 9 steps an epoch.
SMALL = (
    "data=shapes", "data.images=600", "data.size=12", "data.val_size=60", "data.test_images=50", "trainer.max_epochs=2",
)  # fmt: skip
PARSER = OverridesParser.create()


def make_plan(directory: Path, *space: str, method: str = "grid", **more: Any) -> Plan:
    """The plan of a sweep over these overrides, whose fixed ones are :data:`SMALL`."""
    dimensions = [Dimension.from_override(PARSER.parse_override(line), method == "grid") for line in space]
    values: dict[str, Any] = {
        "name": "a", "directory": directory, "configs": TRAIN.parent / "configs", "config_name": "train",
        "method": method, "dimensions": dimensions, "fixed": [*SMALL], "seeds": [0],
        "metric": "val/acc", "maximize": True, "epochs": 4,
        "count": len(grid(dimensions)) if method == "grid" else 5, **more,
    }  # fmt: skip
    return Plan(**values)
