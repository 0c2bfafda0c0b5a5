"""The plan of a sweep, from the command line after -m: checked before anything is started."""

import hashlib
import json
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from optuna import pruners
from optuna.distributions import CategoricalDistribution, distribution_to_json, json_to_distribution
from optuna.exceptions import ExperimentalWarning

from smallvision.config.compose import CHOICES, has_own_module, search_path, trained
from smallvision.config.schema import Sweep, mode_of
from smallvision.core.errors import UserError
from smallvision.core.run_dir import folder_name, write_text
from smallvision.sweeps.space import Dimension, grid, parse_space
from smallvision.sweeps.trial import TrialRun

PLAN_FILE = "sweep.yaml"
METRICS = ("val/acc", "val/loss")
NOT_IN_SWEEPS = {
    "resume": "the same sweep command again continues a sweep",
    "rerun": "a sweep composes its runs from the configs; type the values instead",
    "task": "a sweep consists of fits",
    "hydra": "of Hydra's own keys only hydra.sweep.dir can be set here",
}
COMBINATIONS_TRIED = 8  # before a sweep in which none of them can run is refused
NOT_TESTED = ("test=false", "report=false")  # of a search: only its best trial is tested
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
    """What a sweep consists of.

    ``directory``: the sweep's; ``configs``, ``config_name``: what Hydra composes a trial from; ``fixed``: overrides
    of every trial; ``count``: number of trials; ``epochs``: the most epochs that one run can have; ``storage``: an
    address, None for the journal in the directory; ``adopt_minutes``: after which others adopt a dead process's trials.
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
    adopt_minutes: float = 10.0

    @property
    def in_database(self) -> bool:
        """Whether several processes can carry it out at once."""
        return self.storage is not None and "://" in self.storage

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

    def default_name(self, data: str, model: str) -> str:
        """A name that the same command always gets: data, model, the searched keys and a digest of the definition."""
        keys = [dimension.key for dimension in self.dimensions]
        subject = [key.rpartition(".")[2].lstrip("+") for key in keys][:3] or ["seeds"]
        fixed = {"data": data, "model": model}
        subject = [*dict.fromkeys(name for key, name in fixed.items() if key not in keys), *subject]
        digest = hashlib.sha256(json.dumps(self.definition(), sort_keys=True).encode()).hexdigest()
        return "-".join([*subject, digest[:8]])

    def run_dir(self, number: int, seed: int) -> Path:
        return self.directory / (f"{number}" if len(self.seeds) == 1 else f"{number}-seed{seed}")

    def run(self, number: int, params: dict[str, str], seed: int) -> TrialRun:
        """One run of trial ``number``, whose values are ``params``."""
        values = [f"{key}={value}" for key, value in params.items()]
        return TrialRun(
            number,
            seed,
            [*self.fixed, *values, f"seed={seed}", *(NOT_TESTED if self.searches else ())],
            self.run_dir(number, seed),
            self.configs,
            self.config_name,
            prunable=self.pruner not in ("none", "wilcoxon"),
        )

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
        """Write sweep.yaml, from which reports read the plan."""
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


# From the command line ----------------------------------------------------------------------------------------


def make_plan(
    config: DictConfig, arguments: list[str], configs: Path, config_loader: ConfigLoader
) -> tuple[Plan, Sweep]:
    """The plan of that command line, and the settings of the ``sweep`` section.

    ``config``: composed from ``configs`` of the overrides that sweep nothing. Raises UserError.
    """
    settings = read_settings(config)
    parser = OverridesParser.create(config_loader=config_loader)
    searched = {override.get_key_element(): override for override in parse_space(settings.space, parser)}
    fixed: list[str] = []
    if type(config.seed) is not int:
        raise UserError(f"seed={config.seed}: must be a whole number, or a list of them: seed=0,1,2")
    seeds = [*range(config.seed, config.seed + (settings.seeds or 1))]
    for override in parser.parse_overrides(arguments):
        key, line = override.get_key_element(), str(override.input_line)
        section = key.lstrip("+~").partition(".")[0]
        if section in NOT_IN_SWEEPS and line != "task=fit":
            raise UserError(f"{key}: {NOT_IN_SWEEPS[section]}")
        if section == "sweep":
            if override.is_sweep_override():
                raise UserError(f"{line}: takes one value for the whole sweep")
        elif key == "seed":
            seeds = listed_seeds(override, settings) if override.is_sweep_override() else seeds
        elif override.is_sweep_override():
            searched[key] = override
        else:
            searched.pop(key, None)
            fixed.append(line)
    if config.hydra.searchpath:
        fixed.append(search_path(config.hydra.searchpath))
    dimensions = [Dimension.from_override(override, settings.method == "grid") for override in searched.values()]
    # Choices of groups first: Hydra composes them before it sets keys of them.
    dimensions.sort(key=lambda dimension: dimension.key.lstrip("+") not in CHOICES)
    typed = any(line.startswith("sweep") for line in arguments)
    if not (dimensions or len(seeds) > 1 or settings.seeds or typed):
        raise UserError("-m: nothing to search; list values or seeds, for example optimizer.lr=1e-3,1e-2 or seed=0,1,2")
    plan = Plan(
        name=settings.name or "",
        directory=Path(),
        configs=configs,
        config_name=str(config.hydra.job.config_name),
        method=settings.method,
        dimensions=dimensions,
        fixed=fixed,
        seeds=seeds,
        metric=settings.metric,
        maximize=settings.direction == "maximize",
        count=count_trials(settings, dimensions),
        epochs=most_epochs(dimensions, config.trainer.max_epochs),
        sampler_seed=settings.sampler_seed,
        pruner=settings.pruner,
        pruner_options=settings.pruner_options,
        storage=settings.storage,
        adopt_minutes=settings.adopt_minutes,
    )
    plan.make_pruner()  # refuses what it does not take
    plan = with_directory(plan, config)
    refuse_values(plan)
    return plan, settings


def read_settings(config: DictConfig) -> Sweep:
    """The ``sweep`` section, with the direction that its metric asks for. Raises UserError at the first key that is
    unknown or has an impossible value.
    """
    if OmegaConf.select(config, "sweep.metric") is None:
        raise UserError("sweep.metric: which of the module's? Type module.monitor=NAME, or sweep.metric=NAME")
    settings = Sweep.from_dict(OmegaConf.to_container(config.sweep, resolve=True), "sweep")
    metric, is_own = settings.metric, has_own_module(config)
    metrics = {name: mode_of(name) for name in METRICS}  # which of their values are better
    if is_own:
        monitor = str(config.module.monitor)
        metrics[monitor] = config.module.mode or mode_of(monitor)
        if settings.test_best:
            raise UserError("sweep.test_best: a LightningModule of your own has no test/acc")
    if metric.startswith(("test", "train")) or not (is_own or metric in metrics):
        raise UserError(
            f"sweep.metric={metric}: a sweep ranks its trials by validation images, never by others;"
            f" use one of {', '.join(metrics) if not is_own else 'those that the module logs in validation'}"
        )
    if settings.direction == "auto" and metric not in metrics:
        raise UserError(f"sweep.metric={metric}: type sweep.direction=maximize or sweep.direction=minimize as well")
    if settings.direction == "auto":
        settings.direction = "maximize" if metrics[metric] == "max" else "minimize"
    return settings


def listed_seeds(override: Override, settings: Sweep) -> list[int]:
    """The seeds of ``seed=0,1,2``: repetitions of every trial, not a searched key."""
    if settings.seeds is not None:
        raise UserError(f"{override.input_line}: lists the seeds; sweep.seeds={settings.seeds} counts them")
    try:
        return [int(seed) for seed in override.sweep_string_iterator()]
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{override.input_line}: seeds are whole numbers: seed=0,1,2 or seed=range(0,5)") from None


def count_trials(settings: Sweep, dimensions: list[Dimension]) -> int:
    if settings.method == "grid":
        return len(grid(dimensions))
    if not dimensions:
        raise UserError(
            f'sweep={settings.method}: nothing to search; add for example "optimizer.lr=tag(log,interval(1e-4,1e-1))"'
        )
    return settings.trials or 1


def with_directory(plan: Plan, config: DictConfig) -> Plan:
    """The plan with its directory and name: those typed, or the ones that the same command gets again."""
    typed = any(str(line).startswith("hydra.sweep.dir=") for line in config.hydra.overrides.hydra)
    own = OmegaConf.select(config, "data.path")
    name = plan.name or plan.default_name(
        folder_name(str(own)) if own else str(config.data.name),
        trained(config).partition("=")[2],
    )
    OmegaConf.update(config, "sweep.name", name, force_add=True)
    directory = Path(str(config.hydra.sweep.dir))
    if typed and not plan.name:
        name = directory.resolve().name
    return replace(plan, name=name, directory=directory)


def refuse_values(plan: Plan) -> None:
    """Raise UserError where a listed value can be in no run, or where none of the first combinations can be run."""
    listed = [len(one.choices) for one in plan.dimensions if isinstance(one.distribution, CategoricalDistribution)]
    refused: list[tuple[dict[str, str], UserError]] = []
    runs: dict[str, str] | None = None  # the first combination that does
    longest = max(listed, default=0)
    for turn in range(max(longest, min(plan.count, COMBINATIONS_TRIED))):
        if turn >= longest and runs is not None:
            break  # each listed value was in a combination
        params = {dimension.key: dimension.example(turn) for dimension in plan.dimensions}
        try:
            refuse_run(plan, params)
            runs = params if runs is None else runs
        except UserError as error:
            refused.append((params, error))
    if runs is None and refused:
        raise refused[0][1]
    for params, _ in refused:
        for dimension in plan.dimensions:
            if isinstance(dimension.distribution, CategoricalDistribution):
                refuse_run(plan, {**(runs or {}), dimension.key: params[dimension.key]})


def refuse_run(plan: Plan, params: dict[str, str]) -> None:
    """Raise UserError where that combination cannot be run."""
    run = plan.run(0, params, plan.seeds[0])
    run.compose(run.overrides)
