"""One run of a sweep: overrides and a directory. Whoever has these needs nothing else, on any machine."""

import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from smallvision.config.compose import compose
from smallvision.config.resolve import force, resolve_config
from smallvision.config.schema import Config
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir, assign, is_locked, opened, typed_use
from smallvision.core.system import STOP

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback

DIRECTORY_ID = ".directory_id"  # the file that tells a sweep's directory from all others
LOCK_SECONDS = 2.0  # from one look at a lock to the next
LAST_LINES = 20  # of a log or traceback, kept as the reason of a failure


class Reason(NamedTuple):
    """Why a run failed: a first line that is enough by itself, and details below; ``refused``: the input is wrong."""

    text: str
    refused: bool = False


@dataclass(frozen=True)
class TrialRun:
    """One seed of trial ``number``. ``overrides``: its command line, composed from ``configs``; ``prunable``: whether a
    pruner decides after each epoch if it goes on.
    """

    number: int
    seed: int
    overrides: list[str]
    directory: Path
    configs: Path
    config_name: str = "train"
    prunable: bool = False

    def command_line(self) -> list[str]:
        """The overrides that begin it, or that continue it once it has begun."""
        begun = RunDir(self.directory).config_file.is_file()
        return [assign("resume", self.directory), *typed_use(self.overrides)] if begun else self.overrides

    def compose(self, overrides: list[str]) -> Config:
        """The config of that command line. Raises UserError where it could not be run, or not in a sweep."""
        forced = force(overrides)
        config = resolve_config(compose(forced, self.configs, self.config_name), forced)
        if config.task != "fit":
            raise UserError(f"task={config.task}: a sweep consists of fits")
        devices, nodes = config.trainer.devices, config.trainer.num_nodes
        if devices == -1 or (isinstance(devices, list) and devices != [0]):
            raise UserError(f"trainer.devices={devices}: how many for each run of a sweep, which chooses them itself")
        if nodes != 1:
            raise UserError(f"trainer.num_nodes={nodes}: 1 for each run of a sweep")
        if config.data.val_size == 0 or config.trainer.limit_val_batches == 0:
            raise UserError("data.val_size=0: a sweep ranks its trials by validation images")
        return config

    def finished(self) -> Results | None:
        """Its results, once it has ended by itself or was pruned."""
        try:
            results = Results.read(RunDir(self.directory).results_json)
        except UserError:
            return None
        return results if results.status in ("completed", "pruned") else None

    def execute(self, callbacks: Sequence["Callback"] = ()) -> Reason | None:
        """Fit in its directory, from the start or from its last checkpoint, in this process.

        Returns why it failed, None where it did not. Raises Interrupted where it was asked to stop.
        """
        from smallvision.tasks import fit  # with torch, which the sweep itself does not need

        print(f"\ntrial {self.number}, seed {self.seed}", flush=True)
        overrides = self.command_line()
        try:
            config = self.compose(overrides)
            self.directory.mkdir(parents=True, exist_ok=True)
            with opened(self.directory, overrides) as run_dir:
                fit.run(config, run_dir, None, callbacks)
        except UserError as error:
            print(f"error: {error}", flush=True)
            return Reason(str(error), refused=True)
        except Exception as error:  # ends this run, not the sweep
            details = traceback.format_exc()
            print(details, flush=True)
            first_line = " ".join(f"{type(error).__name__}: {error}".split())
            return Reason("\n".join([first_line, *details.splitlines()[-LAST_LINES:]]))
        return None

    def execute_on_node(self) -> Reason | None:
        """As :meth:`execute`, in a task of a cluster, once no process of a node that was given up has the run any more;
        None also where it has ended meanwhile, or was asked to stop.
        """
        while is_locked(self.directory) and STOP.signal is None:
            time.sleep(LOCK_SECONDS)
        with suppress(Interrupted):
            return self.execute() if self.finished() is None else None
        return None
