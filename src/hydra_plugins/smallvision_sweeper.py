"""Where Hydra finds the sweeper of ``-m``. Hydra imports it at every start, so it imports little."""

from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SmallvisionSweeper(Sweeper):
    """Hands a multirun to :mod:`smallvision.sweeps`."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.chosen = hydra_context, config

    def sweep(self, arguments: list[str]) -> Any:
        from smallvision.sweeps import sweep

        sweep.run(self.chosen, arguments, self.context.config_loader)
