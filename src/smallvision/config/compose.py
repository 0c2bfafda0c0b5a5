"""What Hydra composes of configs/ and the command line, and what it refuses, in one line. Needs no torch."""

import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smallvision.config.schema import CLASSIFIER, GROUPS, Config
from smallvision.config.untrusted import check_hydra, refuse_search_path
from smallvision.core.errors import UserError, did_you_mean
from smallvision.core.run_dir import INSTALLED, SCRIPT, command, find_run, quote, shell_line

CONFIG_DIR = Path(__file__).parents[1] / "configs" if INSTALLED else SCRIPT.with_name("configs")
CHOICES = (*GROUPS, "module", "task", "experiment")
# What to type for what has no default.
EXAMPLES = {
    "checkpoint": "checkpoint=last, or a run's directory or name",
    "images": "images=photos",
    "data.path": "data.path=photos",
}
# What is often typed, by what it is called here; keys by their last part, where no key ends in it.
ALIASES = {
    "device=gpu": "device=cuda", "task=train": "task=fit", "task=eval": "task=test", "epochs": "trainer.max_epochs",
    "n_epochs": "trainer.max_epochs", "num_epochs": "trainer.max_epochs", "learning_rate": "optimizer.lr",
    "bs": "data.batch_size", "wd": "optimizer.weight_decay", "gpus": "trainer.devices", "dataset": "data",
    "network": "model", "precision": "device.precision", "patience": "early_stopping.patience",
    "output_dir": "hydra.run.dir", "default_root_dir": "hydra.run.dir", "ckpt": "checkpoint",
    "ckpt_path": "checkpoint", "accelerator": "device",
}  # fmt: skip
# Six hex digits, the first of which is a letter: others could be numbers, of which Hydra leaves out leading zeros.
_SUFFIX = ""


def new_run_suffix() -> None:
    """End the names of run directories otherwise from here on: for a further run of the same process."""
    global _SUFFIX
    _SUFFIX = secrets.choice("abcdef") + secrets.token_hex(3)[1:]


new_run_suffix()
OmegaConf.register_new_resolver("run_suffix", lambda name=None: name or _SUFFIX, replace=True)
OmegaConf.register_new_resolver("last_part", lambda target: str(target).rpartition(".")[2], replace=True)


def compose(
    overrides: list[str],
    directory: Path = CONFIG_DIR,
    name: str = "train",
    config_dir: Path | None = None,
    sweep: bool = False,
) -> DictConfig:
    """What Hydra makes of these overrides, with its own node, which is checked too.

    ``config_dir``: a further folder of configs. ``sweep``: overrides may list several values, which the result
    leaves out. Raises UserError, in one line, for whatever Hydra refuses.
    """
    if directory != CONFIG_DIR:
        refuse_search_path(directory, name)
    if config_dir is not None:
        overrides = [*overrides, search_path([f"file://{config_dir.resolve()}"])]
    overrides = choose_own(overrides, directory)
    for override in parse(overrides):
        group = override.key_or_group
        if not group:
            raise UserError(f"{override.input_line}: not of the form key=value")
        if not sweep and override.is_sweep_override():
            raise UserError(_several_values(override, overrides, directory, name))
        if override.value() is None and not override.is_delete() and (directory / group).is_dir():
            choices = did_you_mean("", [file.stem for file in (directory / group).glob("[!_]*.yaml")])
            raise UserError(f"{group}=null: needs a choice, or leave it out.{choices}")
    with one_line_errors(overrides, directory, name):
        try:
            composed = _compose_by_hydra(overrides, directory, name, RunMode.MULTIRUN if sweep else RunMode.RUN)
        except (HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # Hydra has no exception of its own for some input
            text = _shortened(" ".join(overrides))
            raise UserError(f"{text}: not understood ({_shortened(_first_line(error))})") from None
    check_hydra(composed)
    refuse_use_of_files(composed, overrides, directory)
    with one_line_errors(overrides, directory, name):
        for key in ("resume", "rerun", "checkpoint", "runs"):
            typed = OmegaConf.select(composed, key)
            if isinstance(typed, str):
                composed[key] = find_run(typed, key)
            elif isinstance(typed, ListConfig):
                composed[key] = [find_run(str(one), key) for one in typed]
    return composed


def _several_values(override: Override, overrides: list[str], directory: Path, name: str) -> str:
    """The error of a list without brackets: what would run each of its values, or take them as one list."""
    key, _, values = str(override.input_line).partition("=")
    alone = any(re.match(r"\+*(task|resume|rerun|hydra\.)\b(?!=fit$)", one) for one in overrides)  # not in a sweep
    mends = [] if alone else [f"to run each of them: {command('-m', *overrides)}"]
    as_list = [f"{key}=[{values}]" if one == override.input_line else one for one in overrides]
    key = key.removeprefix("++")  # which force() may have added
    with suppress(UserError):
        Config.from_dict(plain(compose(as_list, directory, name)))
        mends.append(f"for one list of them: {key}=[{values}]")
    return f"{key}={values}: several values; {'; '.join(mends or ['type one'])}"


def search_path(folders: Sequence[str]) -> str:
    """The override by which Hydra finds configs in further folders, ``file://...``."""
    return f"hydra.searchpath=[{','.join(map(quote, folders))}]"


def choose_own(overrides: list[str], directory: Path) -> list[str]:
    """Where a section's ``_target_`` is typed, but no choice of its group, the choice is ``own``, which has no
    arguments of another target; what is typed of that section need not be in it.
    """
    parsed = parse(overrides)
    typed = {override.key_or_group: override for override in parsed}
    own = [
        section
        for section in (*GROUPS, "module")
        if f"{section}._target_" in typed and (directory / section / "own.yaml").is_file()
        and (section not in typed or typed[section].value() == "own")
    ]  # fmt: skip
    forced = [
        f"++{line}" if line[:1] not in "+~" and key.partition(".")[0] in own and "." in key else line
        for line, key in ((str(override.input_line), override.key_or_group) for override in parsed)
    ]
    return [*(f"{section}=own" for section in own if section not in typed), *forced]


def refuse_use_of_files(composed: DictConfig, overrides: list[str], directory: Path) -> None:
    """Raise UserError where ``use`` may come out of a file that is not of this project."""
    for override in parse(overrides):
        if override.key_or_group == "use":
            if "${" in str(override.input_line):
                raise UserError(f"{override.input_line}: type the names themselves")
            return
    value = OmegaConf.select(composed, "use", throw_on_resolution_failure=False)
    if value is not None and (directory != CONFIG_DIR or composed.hydra.searchpath):
        names = ",".join(names_of(value, "use"))
        raise UserError(
            f"use={names}: stands in a file outside of this project; if you trust it, type it on the command line"
        )


def names_of(value: object, key: str) -> list[str]:
    """The packages and modules of ``use``: one name or a list of them, or null."""
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, (list, ListConfig)) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{key}={value}: must be the name of a package or module, or a list of them")
    return list(names)


def trained(composed: DictConfig) -> str:
    """What a run trains, as it is chosen: ``model=mnist``, or ``module=Autoencoder`` of the user's own."""
    section = "module" if has_own_module(composed) else "model"
    return f"{section}={composed[section].name}"


def has_own_module(composed: DictConfig) -> bool:
    """Whether it chooses a LightningModule of the user's own, perhaps of several in a sweep."""
    module = OmegaConf.select(composed, "module")
    return module is not None and (OmegaConf.is_missing(module, "_target_") or module._target_ != CLASSIFIER)


def _compose_by_hydra(overrides: list[str], directory: Path, name: str, mode: RunMode = RunMode.RUN) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        return hydra.compose_config(name, overrides, run_mode=mode, with_log_configuration=False)


def compose_section(group: str, choice: str) -> dict[str, object]:
    """One choice of a group of configs/ as plain data, such as ``optimizer`` and ``adam``."""
    section = OmegaConf.to_container(compose([f"{group}={choice}"])[group], resolve=True)
    assert isinstance(section, dict)
    return {str(key): value for key, value in section.items()}


def parse(overrides: list[str]) -> list[Override]:
    """Hydra's overrides. Raises UserError where one is not of its grammar."""
    try:
        return OverridesParser.create().parse_overrides(overrides)
    except OverrideParseException as error:
        for before, after in pairwise(overrides):
            if after[:1] == "=" or (before[-1:] == "=" and "=" not in after):
                typed = _shortened(f"{before} {after}")
                raise UserError(f"{typed}: no spaces around =, type key=value") from None
        raise UserError(_not_an_override(error)) from None
    except (ValueError, AssertionError, RecursionError) as error:  # faults of Hydra's parser
        raise UserError(f"{_shortened(' '.join(overrides))}: not understood ({error})") from None


@contextmanager
def one_line_errors(overrides: list[str], directory: Path = CONFIG_DIR, name: str = "train") -> Iterator[None]:
    """What Hydra and OmegaConf report in several lines becomes a UserError of one that names the key."""
    try:
        yield
    except OverrideParseException as error:
        raise UserError(_not_an_override(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        unknown = re.search(r"(?:Could not override|Could not delete from config\.) '([^']+)'", str(error))
        group, _, choice = str(getattr(error, "missing_cfg_file", "")).rpartition("/")
        if group and isinstance(error, MissingConfigException) and error.options is not None:
            options = [option for option in error.options if not option.startswith("_")]
            alias = ALIASES.get(f"{group}={choice}")
            nearest = f" Did you mean '{alias}'?" if alias else did_you_mean(choice, options)
            message = f"{group}={choice}: no such choice.{nearest}"
        elif isinstance(error, ConfigCompositionException) and unknown is not None:
            key = str(getattr(error.__cause__, "full_key", None) or unknown[1])
            key = key if key.startswith(f"{unknown[1]}.") else unknown[1]
            message = f"{key}: no such key.{_nearest_key(key, overrides, directory, name)}"
        else:
            where = f"{error.full_key}: " if isinstance(error, OmegaConfBaseException) and error.full_key else ""
            message = f"{where}{_shortened(_first_line(error))} {_shortened(_first_line(error.__cause__))}"
        raise UserError(message) from None


def _not_an_override(error: OverrideParseException) -> str:
    key, equals, value = str(error.override).partition("=")
    if not equals:
        choices = [f"{file.parent.name}={key}" for file in sorted(CONFIG_DIR.glob("*/*.yaml")) if file.stem == key]
        return f"{_shortened(key)}: not of the form key=value; {' or '.join(choices) or command('--help')}"
    is_list = re.fullmatch(r"\[(.*)\]", value)
    quoted = f"[{','.join(map(quote, is_list[1].split(',')))}]" if is_list else quote(value)
    mend = f"; unusual characters go in quotes: {_shortened(shell_line(f'{key}={quoted}'))}" if key else ""
    return f"{_shortened(str(error.override))}: not of the form key=value ({_shortened(_first_line(error))}){mend}"


def _first_line(error: BaseException | None) -> str:
    return (str(error or "").splitlines() or [""])[0]


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


def _nearest_key(key: str, overrides: list[str], directory: Path, name: str) -> str:
    """What is known by that name elsewhere, or a key that ends alike, or the nearest one of the same section; in a
    config of the same choices where these can be composed.
    """
    chosen = [override for override in overrides if override.split("=")[0] in CHOICES]
    try:
        composed = _compose_by_hydra(chosen, directory, name)
    except (HydraException, OmegaConfBaseException):
        composed = _compose_by_hydra([], directory, name)
    node: object = OmegaConf.to_container(
        OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    )
    prefix, path = "", key.replace("/", ".").split(".")
    alike = [known for known in _keys(node) if known.endswith(f".{path[-1]}")]
    meant = alias(path[-1], overrides) or min(alike, key=len, default=key)
    tasks = [file.stem for file in sorted((directory / "task").glob("*.yaml")) if f"\n{path[0]}:" in file.read_text()]
    if tasks and path[0] not in composed:
        return f" It goes with task={' or '.join(tasks)}."
    while len(path) > 1 and isinstance(node, dict) and isinstance(node.get(path[0]), dict):
        node, prefix, path = node[path[0]], f"{prefix}{path[0]}.", path[1:]
    assert isinstance(node, dict)
    if meant != key:
        return f" Did you mean '{meant}'?"
    return did_you_mean(path[0], map(str, node), prefix)


def alias(key: str, overrides: list[str]) -> str | None:
    """What a key that ends in ``key`` is called here; of a group, with the value that was typed."""
    meant = ALIASES.get(key)
    value = next((one.partition("=")[2] for one in overrides if one.partition("=")[0].endswith(key)), "")
    return ALIASES.get(f"{meant}={value}", f"{meant}={value}") if meant in GROUPS and value else meant


def _keys(node: object, prefix: str = "") -> Iterator[str]:
    """All of a config, at any depth."""
    for key, value in node.items() if isinstance(node, dict) else ():
        yield f"{prefix}{key}"
        yield from _keys(value, f"{prefix}{key}.")


def plain(composed: DictConfig) -> dict[str, object]:
    """Resolved, without the nodes of Hydra and of sweeps. Raises UserError where a mandatory value is missing."""
    try:
        visible = OmegaConf.masked_copy(composed, [str(key) for key in composed if key not in ("hydra", "sweep")])
        missing = sorted(OmegaConf.missing_keys(visible))
        if missing:
            raise UserError(f"{missing[0]}: needs a value; type {EXAMPLES.get(missing[0], f'{missing[0]}=VALUE')}")
        plain = OmegaConf.to_container(visible, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key or 'config'}: {str(error).splitlines()[0][:200]}") from None
    assert isinstance(plain, dict)
    if plain.get("experiment") is not None:
        raise UserError("experiment: has keys of its own; its file must open with # @package _global_")
    plain.pop("experiment", None)
    return {str(key): value for key, value in plain.items()}
