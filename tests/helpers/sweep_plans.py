"""Plans of sweeps, made without a command line, and their runs without processes."""

from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from helpers.command import TRAIN
from smallvision.core.errors import Interrupted
from smallvision.sweeps.executors import Event
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import Dimension, grid
from smallvision.sweeps.sweep import Sweep
from smallvision.sweeps.trial import TrialRun

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


class InProcess:
    """Runs one run at a time, in this process; ``sweep`` judges it after each epoch."""

    slots, asks = 1, True
    sweep: Sweep

    def __init__(self) -> None:
        self.run: TrialRun | None = None

    def submit(self, runs: list[TrialRun]) -> None:
        for run in runs:
            self.run = run

    def wait(self, seconds: float) -> list[Event]:
        from smallvision.sweeps.pruning import AskAfterEpoch

        run = self.run
        assert run is not None
        reason = None
        with suppress(Interrupted):
            reason = run.execute([AskAfterEpoch(self)] if run.prunable else [])
        return [Event(run, "ended", reason)]

    def send(self, message: object) -> None:
        """As the connection of a worker."""
        assert self.run is not None
        self.sweep.handle(Event(self.run, "epoch"), stopping=False)

    def recv(self) -> object:
        return None

    def go_on(self, run: TrialRun) -> None:
        pass

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass
