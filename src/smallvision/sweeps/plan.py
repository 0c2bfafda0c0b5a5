"""The plan of a sweep: what all its workers need to know, checked before anything is started."""

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from optuna import pruners
from optuna.distributions import CategoricalDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import ExperimentalWarning

from smallvision.config.compose import compose, force, resolve_config
from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.core.run_dir import write_text
from smallvision.sweeps.space import Dimension

PLAN_FILE = "sweep.yaml"
PRUNERS = {
    "none": pruners.NopPruner,
    "median": pruners.MedianPruner,
    "percentile": pruners.PercentilePruner,
    "successive_halving": pruners.SuccessiveHalvingPruner,
    "hyperband": pruners.HyperbandPruner,
    "threshold": pruners.ThresholdPruner,
    "wilcoxon": pruners.WilcoxonPruner,
}


@dataclass(frozen=True)
class Plan:
    """Everything that a worker needs; the same for all workers of a sweep.

    ``directory``: the sweep's; ``configs``, ``config_name``: what Hydra composes a trial from; ``fixed``: overrides
    of every trial; ``count``: number of trials; ``epochs``: the most epochs that one run can have; ``storage``: an
    address, None for the journal in the directory.
    """

    name: str
    directory: Path
    configs: Path
    config_name: str
    method: str
    dimensions: list[Dimension]
    fixed: list[str]
    seeds: list[int]
    metric: str
    maximize: bool
    count: int
    epochs: int
    sampler_seed: int = 0
    pruner: str = "none"
    pruner_options: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None

    @property
    def searches(self) -> bool:
        """Whether runs differ in more than the seed. If not, each run is tested as it would be outside a sweep."""
        return bool(self.dimensions)

    @property
    def seeds_in_sequence(self) -> bool:
        """Whether the seeds of a trial wait for each other, so that pruning one saves the rest."""
        return self.pruner != "none"

    def definition(self) -> dict[str, Any]:
        """What must not change while the sweep goes on, by the name that an error message gives it."""
        return {
            "method": self.method,
            **{f"space of {dimension.key}": dimension.expression for dimension in self.dimensions},
            **{line.partition("=")[0]: line.partition("=")[2] for line in self.fixed},
            "seeds": self.seeds,
            "sweep.metric": self.metric,
            "sweep.direction": "maximize" if self.maximize else "minimize",
            "sweep.pruner": self.pruner,
            "sweep.pruner_options": self.pruner_options,
            **({"sweep.sampler_seed": self.sampler_seed} if self.method != "grid" else {}),
        }

    def default_name(self, model: str) -> str:
        """A name that the same command always gets: the searched keys and a digest of the definition."""
        keys = [dimension.key for dimension in self.dimensions]
        subject = [key.rpartition(".")[2].lstrip("+") for key in keys][:3] or ["seeds"]
        if "model" not in keys:
            subject.insert(0, model)
        digest = hashlib.sha256(json.dumps(self.definition(), sort_keys=True).encode()).hexdigest()
        return "-".join([*subject, digest[:8]])

    def overrides(self, params: dict[str, str], seed: int) -> list[str]:
        """The command line of one run."""
        return [*self.fixed, *(f"{key}={value}" for key, value in params.items()), f"seed={seed}"]

    def run_dir(self, number: int, seed: int) -> Path:
        return self.directory / (f"{number}" if len(self.seeds) == 1 else f"{number}-seed{seed}")

    def compose(self, overrides: list[str]) -> Config:
        """The config of one run. Raises UserError where it could not be run, or not in a sweep."""
        forced = force(overrides)
        config = resolve_config(compose(forced, self.configs, self.config_name), forced)
        if config.task != "fit":
            raise UserError(f"task={config.task}: a sweep consists of fits")
        if config.trainer.devices not in (1, [0], "auto") or config.trainer.num_nodes != 1:
            raise UserError("trainer.devices: 1 for each run of a sweep; use sweep.workers to run several at once")
        if config.data.val_size == 0 or config.trainer.limit_val_batches == 0:
            raise UserError("data.val_size=0: a sweep ranks its trials by validation images")
        return config

    def make_pruner(self) -> pruners.BasePruner:
        """Optuna's pruner of that name. Raises UserError for options that it does not take."""
        options = dict(self.pruner_options)
        if self.pruner == "hyperband":
            options.setdefault("max_resource", self.epochs * len(self.seeds))
        if self.pruner == "percentile":
            options.setdefault("percentile", 25.0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # the Wilcoxon pruner
                return PRUNERS[self.pruner](**options)
        except (TypeError, ValueError) as error:
            raise UserError(f"sweep.pruner_options: {error}") from None

    def write(self) -> None:
        """Write sweep.yaml, from which the workers read the plan, and reports."""
        tree = {name: value for name, value in asdict(self).items() if name not in ("directory", "storage")}
        tree["configs"] = str(self.configs)
        tree["dimensions"] = [
            {"key": one.key, "expression": one.expression, "distribution": distribution_to_json(one.distribution)}
            for one in self.dimensions
        ]
        write_text(self.directory / PLAN_FILE, yaml.safe_dump(tree, sort_keys=False))

    @classmethod
    def read(cls, directory: Path, storage: str | None) -> "Plan":
        """The plan of the sweep in that directory. Where its trials are stored is not taken from the file.

        Raises UserError where it holds none.
        """
        file = directory / PLAN_FILE
        try:
            tree = yaml.safe_load(file.read_text(encoding="utf-8"))
            tree["dimensions"] = [
                Dimension(one["key"], one["expression"], json_to_distribution(one["distribution"]))
                for one in tree["dimensions"]
            ]
            return cls(**{**tree, "configs": Path(tree["configs"]), "directory": directory, "storage": storage})
        except (OSError, ValueError, KeyError, TypeError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"{file}: not the plan of a sweep ({type(error).__name__}: {error})") from None


def most_epochs(dimensions: list[Dimension], max_epochs: Any) -> int:
    """The most epochs that a run of the sweep can have. ``max_epochs``: as typed, not checked yet."""
    for dimension in dimensions:
        if dimension.key == "trainer.max_epochs":
            if isinstance(dimension.distribution, CategoricalDistribution):
                return max((int(value) for value in dimension.choices if value.isdigit()), default=1)
            return int(dimension.distribution.high)  # type: ignore[attr-defined]
    return max_epochs if isinstance(max_epochs, int) else 1
