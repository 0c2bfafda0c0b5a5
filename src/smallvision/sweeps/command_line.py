"""From the command line after -m to the plan of a sweep."""

from dataclasses import replace
from pathlib import Path

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from smallvision.config.compose import CHOICES
from smallvision.config.schema import Sweep
from smallvision.core.errors import UserError
from smallvision.sweeps.plan import Plan, most_epochs
from smallvision.sweeps.space import Dimension, grid, parse_space

METRICS = {"val/acc": True, "val/loss": False}  # whether a higher value is better
NOT_IN_SWEEPS = {
    "resume": "the same sweep command again continues a sweep",
    "task": "a sweep consists of fits",
    "hydra": "of Hydra's own keys only hydra.sweep.dir can be set here",
}
COMBINATIONS_TRIED = 8  # before a sweep in which none of them can run is refused


def make_plan(config: DictConfig, arguments: list[str], config_loader: ConfigLoader) -> tuple[Plan, Sweep]:
    """The plan of that command line, and the settings of the ``sweep`` section.

    ``config``: composed of the overrides that sweep nothing. Raises UserError.
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
    dimensions = [Dimension.from_override(override, settings.method == "grid") for override in searched.values()]
    # Choices of groups first: Hydra composes them before it sets keys of them.
    dimensions.sort(key=lambda dimension: dimension.key.lstrip("+") not in CHOICES)
    higher_is_better = METRICS[settings.metric]
    plan = Plan(
        name=settings.name or "",
        directory=Path(),
        configs=config_dir(config),
        config_name=str(config.hydra.job.config_name),
        method=settings.method,
        dimensions=dimensions,
        fixed=fixed,
        seeds=seeds,
        metric=settings.metric,
        maximize=higher_is_better if settings.direction == "auto" else settings.direction == "maximize",
        count=count_trials(settings, dimensions),
        epochs=most_epochs(dimensions, config.trainer.max_epochs),
        sampler_seed=settings.sampler_seed,
        pruner=settings.pruner,
        pruner_options=settings.pruner_options,
        storage=settings.storage,
    )
    plan.make_pruner()  # refuses what it does not take
    plan = with_directory(plan, config)
    refuse_if_nothing_can_run(plan)
    return plan, settings


def read_settings(config: DictConfig) -> Sweep:
    """The ``sweep`` section. Raises UserError at the first key that is unknown or has an impossible value."""
    settings = Sweep.from_dict(OmegaConf.to_container(config.sweep, resolve=True), "sweep")
    if settings.metric not in METRICS:
        raise UserError(
            f"sweep.metric={settings.metric}: a sweep ranks its trials by validation images, never by others;"
            f" use one of {', '.join(METRICS)}"
        )
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


def config_dir(config: DictConfig) -> Path:
    """The folder that Hydra composes from."""
    sources = {source.provider: source.path for source in config.hydra.runtime.config_sources}
    return Path(str(sources["main"]))


def with_directory(plan: Plan, config: DictConfig) -> Plan:
    """The plan with its directory and name: those typed, or the ones that the same command gets again."""
    typed = any(str(line).startswith("hydra.sweep.dir=") for line in config.hydra.overrides.hydra)
    name = plan.name or plan.default_name(str(config.model.name))
    OmegaConf.update(config, "sweep.name", name, force_add=True)
    directory = Path(str(config.hydra.sweep.dir))
    if typed and not plan.name:
        name = directory.resolve().name
    return replace(plan, name=name, directory=directory)


def refuse_if_nothing_can_run(plan: Plan) -> None:
    """Raise UserError where none of the first combinations of values can be run."""
    first: UserError | None = None
    for turn in range(min(COMBINATIONS_TRIED, plan.count)):
        params = {dimension.key: dimension.example(turn) for dimension in plan.dimensions}
        try:
            plan.compose(plan.overrides(params, plan.seeds[0]))
            return
        except UserError as error:
            first = first or error
    if first is not None:
        raise first
