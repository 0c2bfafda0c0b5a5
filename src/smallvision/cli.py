"""The command line's manners: wrong input is refused early, in one line, with exit code 2."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from smallvision.config.compose import CHOICES, loosened, parse, resolve_config
from smallvision.config.schema import Config
from smallvision.config.untrusted import check_hydra, refuse_search_path
from smallvision.core.errors import Interrupted, UserError, did_you_mean, printable
from smallvision.core.system import STOP

WITHOUT_DIRECTORY = ("report", "serve")


def configs() -> Path:
    """The folder beside train.py."""
    return Path(sys.argv[0]).resolve().parent / "configs"


@contextmanager
def exit_codes() -> Iterator[None]:
    """What the block raises becomes one line and an exit code: 2 wrong input, 130 interrupted."""
    try:
        with in_one_line():
            yield
    except UserError as refusal:
        refuse(str(refusal))
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


@contextmanager
def in_one_line() -> Iterator[None]:
    """What Hydra says of wrong input, often in several lines, becomes a UserError."""
    try:
        yield
    except MissingConfigException as error:
        raise UserError(_unknown_choice(error)) from None
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(_composition(error)) from None


def refuse(line: str) -> NoReturn:
    print("error:", printable(" ".join(line.split())), file=sys.stderr)
    sys.exit(2)


def check_command_line() -> None:
    """Refuse what is wrong with the command line before anything is started, and make the run directory.

    Hydra opens a run's directory before any of our code runs, so the directory is settled here and handed
    to it: a new one, the one to be continued, or the one that was typed. Flags that run nothing, and
    sweeps, whose jobs are checked one by one, are left to Hydra.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to raise; exit_codes says it
    parser = get_args_parser()
    parser.error = _refuse_argument  # type: ignore[method-assign]
    arguments = parser.parse_args()
    if arguments.experimental_rerun:  # it would unpickle a file
        raise UserError("--experimental-rerun: not here; a run is continued with resume=RUN_DIR")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise UserError("--resolve: goes with --cfg job")
    directory = Path(arguments.config_path or arguments.config_dir or configs()).resolve()
    refuse_search_path(directory, arguments.config_name or "train")
    shown = arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion
    if shown:
        return
    if arguments.multirun:
        single = [str(one.input_line) for one in parse(arguments.overrides) if not one.is_sweep_override()]
        check_hydra(compose_config(directory, arguments.config_name or "train", single))
        return
    refuse_sweep_keys(arguments.overrides)
    typed = loosened(list(arguments.overrides))
    loose = dict(zip(arguments.overrides, typed, strict=True))
    sys.argv[1:] = [loose.get(argument, argument) for argument in sys.argv[1:]]
    composed = compose_config(directory, arguments.config_name or "train", typed)
    check_hydra(composed)
    config = resolve_config(composed, typed)
    if not arguments.cfg and config["task"] not in WITHOUT_DIRECTORY:
        run_dir = export_dir(config, typed) or make_run_dir(composed, config, typed)
        quoted = str(run_dir).replace("\\", "\\\\").replace("'", "\\'")
        sys.argv.append(f"hydra.run.dir='{quoted}'")
        if config["task"] == "fit":
            STOP.install()


def refuse_sweep_keys(typed: list[str]) -> None:
    """Raise UserError for a choice of sweeps where there is none."""
    for override in parse(typed):
        if str(override.key_or_group).split(".")[0] == "sweep":
            raise UserError(f"{override.key_or_group}: goes with a sweep: python train.py -m ...")


def export_dir(config: Config, typed: list[str]) -> Path | None:
    """Where an export lands: in the run directory of its checkpoint, unless another was typed."""
    if config["task"] != "export" or _is_typed("hydra.run.dir", typed):
        return None
    folder = Path(config["checkpoint"]).parent
    return folder.parent if folder.name == "checkpoints" else folder


def _is_typed(key: str, typed: list[str]) -> bool:
    return any(override.lstrip("+").startswith(f"{key}=") for override in typed)


def make_run_dir(composed: DictConfig, config: Config, typed: list[str]) -> Path:
    """The run's directory, made here so that no other run can have it."""
    was_typed = _is_typed("hydra.run.dir", typed)
    for group in ("data", "model", "optimizer"):  # a checkpoint may have chosen others
        composed[group].name = config[group]["name"]
    run_dir = Path(str(OmegaConf.select(composed, "hydra.run.dir")))
    if config.get("resume") and not was_typed:
        run_dir, was_typed = Path(config["resume"]), True
    try:
        run_dir.mkdir(parents=True, exist_ok=was_typed)
    except OSError as error:
        raise UserError(f"hydra.run.dir={run_dir}: cannot be made: {error.strerror}; choose another") from None
    taken = (run_dir / "config.yaml").is_file() and "LOCAL_RANK" not in os.environ
    if taken and not config.get("resume") and config["task"] != "export":  # which adds to a run
        raise UserError(f"hydra.run.dir={run_dir}: holds a run already; resume={run_dir} continues it")
    if not os.access(run_dir, os.W_OK):
        raise UserError(f"hydra.run.dir={run_dir}: cannot be written; choose another")
    return run_dir


def compose_config(directory: Path, name: str, typed: list[str]) -> DictConfig:
    """What Hydra makes of these overrides, with Hydra's own node."""
    GlobalHydra.instance().clear()
    try:
        for override in parse(typed):
            group = override.key_or_group
            if not group:
                raise UserError(f"{override.input_line}: not of the form key=value")
            if override.value() is None and not override.is_delete() and (directory / group).is_dir():
                choices = did_you_mean("", [file.stem for file in (directory / group).glob("*.yaml")])
                raise UserError(f"{group}=null: needs a choice, or leave it out.{choices}")
        with initialize_config_dir(str(directory), version_base="1.3", job_name="train"):
            return compose(name, overrides=typed, return_hydra_config=True)
    except (UserError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # Hydra has no name of its own for what it did not foresee
        raise UserError(f"{_shortened(' '.join(typed))}: not understood ({_shortened(_first_line(error))})") from None


def _refuse_argument(message: str) -> NoReturn:
    raise UserError(f"{message}; keys are typed as key=value, see python train.py --help")


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file or "").rpartition("/")
    if not group or error.options is None:
        return _first_line(error)
    return f"{group}={choice}: no such choice.{did_you_mean(choice, error.options)}"


def _composition(error: Exception) -> str:
    """One line that names the key, out of what Hydra and OmegaConf say in several."""
    said = str(error)
    if isinstance(error, OverrideParseException):
        said = f"{_shortened(str(error.override))}: not of the form key=value"
        return (
            f"{said} ({_shortened(_first_line(error))});"
            " a value with unusual characters goes in quotes within quotes: \"key='value'\""
        )
    cause = error.__cause__
    unknown = re.search(r"(?:Could not override|Could not delete from config\.) '([^']+)'", said)
    if unknown and isinstance(error, ConfigCompositionException):
        key = str(getattr(cause, "full_key", None) or unknown[1])
        key = key if key.startswith(f"{unknown[1]}.") else unknown[1]
        return f"{key}: no such key.{_near(key)}"
    key = f"{error.full_key}: " if isinstance(error, OmegaConfBaseException) and error.full_key else ""
    return f"{key}{_shortened(_first_line(error))} {_shortened(_first_line(cause))}"


def _first_line(error: BaseException | None) -> str:
    return (str(error or "").splitlines() or [""])[0]


def _shortened(words: str) -> str:
    return words if len(words) <= 200 else f"{words[:200]}..."


def _near(key: str) -> str:
    """The nearest key beside it, in a run of the same groups where they can be had."""
    config: Any = OmegaConf.to_container(compose_config(configs(), "train", _group_choices()))
    prefix, path = "", key.replace("/", ".").split(".")
    while len(path) > 1 and isinstance(config.get(path[0]), dict):
        config, prefix, path = config[path[0]], f"{prefix}{path[0]}.", path[1:]
    return did_you_mean(path[0], [str(name) for name in config if name != "hydra"], prefix)


def _group_choices() -> list[str]:
    typed = [override for override in sys.argv[1:] if override.split("=")[0] in CHOICES]
    try:
        compose_config(configs(), "train", typed)
    except (UserError, HydraException, OmegaConfBaseException):
        return []
    return typed
