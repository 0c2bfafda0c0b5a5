"""What a sweep is to do, settled and checked before anything is started."""

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from optuna import pruners
from optuna.distributions import CategoricalDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import ExperimentalWarning

from smallvision.config import schema as rules
from smallvision.config.schema import Config
from smallvision.core.errors import UserError, did_you_mean
from smallvision.sweeps.space import Dimension, grid

METRICS = {"val/acc": True, "val/loss": False}  # and whether more of it is better
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
    """Everything that a worker needs; the same for all of a sweep's workers.

    ``directory``: the sweep's; ``configs``, ``config_name``: what Hydra composes a trial from; ``fixed``:
    overrides of every trial; ``count``: how many trials; ``epochs``: how many reports of one run there may
    be; ``storage``: an address, None for the sweep's own file.
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
        """Whether anything but the seed differs between runs; if not, each run is tested as any run is."""
        return bool(self.dimensions)

    @property
    def one_after_another(self) -> bool:
        """Whether a configuration's seeds wait for each other, so that pruning can stop the repetition."""
        return self.pruner != "none"

    def definition(self) -> dict[str, Any]:
        """What must not change while the sweep goes on; in words, to be told and compared."""
        return {
            "method": self.method,
            **{f"space of {one.key}": one.expression for one in self.dimensions},
            **{one.partition("=")[0]: one.partition("=")[2] for one in self.fixed},
            "seeds": self.seeds,
            "sweep.metric": self.metric,
            "sweep.direction": "maximize" if self.maximize else "minimize",
            "sweep.pruner": self.pruner,
            "sweep.pruner_options": self.pruner_options,
            **({"sweep.sampler_seed": self.sampler_seed} if self.method != "grid" else {}),
        }

    def overrides(self, params: dict[str, str], seed: int) -> list[str]:
        """The command line of one run."""
        return [*self.fixed, *(f"{key}={value}" for key, value in params.items()), f"seed={seed}"]

    def run_dir(self, number: int, seed: int) -> Path:
        return self.directory / (f"{number}" if len(self.seeds) == 1 else f"{number}-seed{seed}")

    def make_pruner(self) -> pruners.BasePruner:
        """Optuna's pruner of that name. Raises UserError for options that it does not take."""
        options = dict(self.pruner_options)
        if self.pruner == "hyperband":
            options.setdefault("max_resource", self.epochs * len(self.seeds))
        if self.pruner == "percentile":
            options.setdefault("percentile", 25.0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)  # the wilcoxon pruner
                return PRUNERS[self.pruner](**options)
        except (TypeError, ValueError) as error:
            raise UserError(f"sweep.pruner_options: {error}") from None

    def to_json(self) -> str:
        plain = asdict(replace(self, dimensions=[]))
        plain["directory"], plain["configs"] = str(self.directory), str(self.configs)
        plain["dimensions"] = [
            (one.key, one.expression, distribution_to_json(one.distribution)) for one in self.dimensions
        ]
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        plain = json.loads(text)
        plain["directory"], plain["configs"] = Path(plain["directory"]), Path(plain["configs"])
        plain["dimensions"] = [
            Dimension(key, expression, json_to_distribution(distribution))
            for key, expression, distribution in plain["dimensions"]
        ]
        return cls(**plain)


def check_settings(settings: Config) -> None:
    """Raise UserError at the first key of the ``sweep`` section that cannot be."""
    for name, value in settings.items():
        rule = rules.rule_for(f"sweep.{name}")
        if rule is None:
            known = [key.removeprefix("sweep.") for key in rules.SWEEP if "*" not in key]
            raise UserError(f"sweep.{name}: no such key.{did_you_mean(name, known, 'sweep.')}")
        if not rule.holds(value):
            raise UserError(f"sweep.{name}={value}: must be {rule.words}")
    if settings["metric"] not in METRICS:
        raise UserError(
            f"sweep.metric={settings['metric']}: a sweep is judged by its validation images, never by others;"
            f" use one of {', '.join(METRICS)}"
        )


def count_trials(settings: Config, dimensions: list[Dimension]) -> int:
    if settings["method"] == "grid":
        return len(grid(dimensions))
    if not dimensions:
        raise UserError(
            f"sweep={settings['method']}: nothing to search; type for example"
            ' "optimizer.lr=tag(log,interval(1e-4,1e-1))"'
        )
    return int(settings["trials"])


def longest(dimensions: list[Dimension], max_epochs: int) -> int:
    """The most epochs that a run of it can have."""
    for one in dimensions:
        if one.key == "trainer.max_epochs":
            drawn = one.distribution
            if isinstance(drawn, CategoricalDistribution):
                return max((int(value) for value in one.choices if value.isdigit()), default=max_epochs)
            return int(drawn.high)  # type: ignore[attr-defined]
    return max_epochs


def own_name(plan: Plan, model: str) -> str:
    """A name that the same command gets again: what it is about, and a digest of its definition."""
    searched = {one.key: one.key.rpartition(".")[2].lstrip("+") for one in plan.dimensions}
    about = [*([] if "model" in searched else [model]), *list(searched.values())[:3], *(
        [] if searched else ["seeds"])]  # fmt: skip
    digest = hashlib.sha256(json.dumps(plan.definition(), sort_keys=True).encode()).hexdigest()
    return "-".join([*about, digest[:8]])
