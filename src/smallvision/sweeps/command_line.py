"""From what is typed after -m to a plan."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import CategoricalDistribution

from smallvision.config.compose import CHOICES
from smallvision.core.errors import UserError
from smallvision.sweeps.plan import METRICS, Plan, check_settings, count_trials, longest, own_name
from smallvision.sweeps.space import Dimension, dimension, parse_space, written
from smallvision.sweeps.worker import composed

NOT_IN_SWEEPS = {
    "resume": "the same sweep command again continues a sweep",
    "task": "a sweep is of fits",
    "hydra": "of Hydra's own only hydra.sweep.dir can be chosen here",
}
TRIED = 8  # combinations, before a sweep in which none of them can run is refused


def make_plan(config: DictConfig, arguments: list[str], config_loader: Any) -> tuple[Plan, dict[str, Any]]:
    """The plan of that command line, and the rest of the ``sweep`` section. Raises UserError."""
    settings: Any = OmegaConf.to_container(config.sweep, resolve=True)
    check_settings(settings)
    parser = OverridesParser.create(config_loader=config_loader)
    overrides = parser.parse_overrides(arguments)
    searched = {one.get_key_element(): one for one in parse_space(settings["space"], parser)}
    fixed: list[str] = []
    seeds = spread(settings["seeds"], int(config.seed))
    for override in overrides:
        key, line = override.get_key_element(), str(override.input_line)
        section = key.lstrip("+~").partition(".")[0]
        if section in NOT_IN_SWEEPS and line != "task=fit":
            raise UserError(f"{key}: {NOT_IN_SWEEPS[section]}")
        if section == "sweep":
            if override.is_sweep_override():
                raise UserError(f"{line}: one choice for the whole sweep")
        elif key == "seed":
            seeds = repeated(override, settings, seeds)
        elif override.is_sweep_override():
            searched[key] = override
        else:
            searched.pop(key, None)
            fixed.append(line)
    grid = settings["method"] == "grid"
    # Choices of groups first: Hydra composes them before it sets keys of them.
    ordered = sorted(searched.values(), key=lambda one: one.get_key_element().lstrip("+") not in CHOICES)
    dimensions = [dimension(one, grid) for one in ordered]
    maximize = METRICS[settings["metric"]]
    plan = Plan(
        name=settings["name"] or "",
        directory=Path(),
        configs=configs_of(config),
        config_name=str(config.hydra.job.config_name),
        method=settings["method"],
        dimensions=dimensions,
        fixed=fixed,
        seeds=seeds,
        metric=settings["metric"],
        maximize=maximize if settings["direction"] == "auto" else settings["direction"] == "maximize",
        count=count_trials(settings, dimensions),
        epochs=longest(dimensions, int(config.trainer.max_epochs)),
        sampler_seed=settings["sampler_seed"],
        pruner=settings["pruner"],
        pruner_options=settings["pruner_options"],
        storage=settings["storage"],
    )
    plan.make_pruner()  # refuses what it does not take
    return placed(plan, config), settings


def placed(plan: Plan, config: DictConfig) -> Plan:
    """The plan with its directory and name: those typed, or the ones that the same command gets again."""
    typed = any(str(line).startswith("hydra.sweep.dir=") for line in config.hydra.overrides.hydra)
    name = plan.name or own_name(plan, str(config.model.name))
    OmegaConf.update(config, "sweep.name", name, force_add=True)
    directory = Path(str(config.hydra.sweep.dir))
    if typed and not plan.name:
        name = directory.resolve().name
    return replace(plan, name=name, directory=directory)


def spread(seeds: int | None, first: int) -> list[int]:
    """That many seeds, from the config's on."""
    return [*range(first, first + (seeds or 1))]


def repeated(override: Override, settings: dict[str, Any], seeds: list[int]) -> list[int]:
    """The seeds that ``seed=`` lists: repetition, and no search."""
    if not override.is_sweep_override():
        return seeds  # the config has it already
    if settings["seeds"] is not None:
        raise UserError(f"{override.input_line}: lists the seeds; sweep.seeds={settings['seeds']} counts them")
    try:
        return [int(one) for one in override.sweep_string_iterator()]
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{override.input_line}: seeds are whole numbers: seed=0,1,2 or seed=range(0,5)") from None


def configs_of(config: DictConfig) -> Path:
    """The folder that Hydra composes from."""
    sources = {source.provider: source.path for source in config.hydra.runtime.config_sources}
    return Path(str(sources["main"]))


def refuse_hopeless(plan: Plan) -> None:
    """Raise UserError where the first combinations show that no trial could be run as it is typed."""
    first: UserError | None = None
    for turn in range(min(TRIED, plan.count)):
        params = {one.key: example(one, turn) for one in plan.dimensions}
        try:
            composed(plan, plan.overrides(params, plan.seeds[0]))
            return
        except UserError as refusal:
            first = first or refusal
    if first is not None:
        raise first


def example(one: Dimension, turn: int) -> str:
    """One of its values, another at each turn."""
    if isinstance(one.distribution, CategoricalDistribution):
        return one.choices[turn % len(one.choices)]
    ends: Any = one.distribution
    return written(ends.high if turn % 2 else ends.low)
