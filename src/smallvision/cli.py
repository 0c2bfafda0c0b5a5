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

from smallvision.config import GROUPS, Config, settle
from smallvision.errors import Interrupted, Refusal, did_you_mean
from smallvision.signals import STOP

CONFIGS = Path(sys.argv[0]).resolve().parent / "configs"


@contextmanager
def exit_codes() -> Iterator[None]:
    """What the block raises becomes one line and an exit code: 2 wrong input, 130 interrupted."""
    try:
        yield
    except Refusal as refusal:
        refuse(str(refusal))
    except MissingConfigException as error:
        refuse(_unknown_choice(error))
    except (HydraException, OmegaConfBaseException) as error:
        refuse(_composition(error))
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def refuse(line: str) -> NoReturn:
    print("error:", " ".join(line.split()), file=sys.stderr)
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
    shown = arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion
    if shown or arguments.multirun or arguments.experimental_rerun:
        return
    directory = Path(arguments.config_path or arguments.config_dir or CONFIGS).resolve()
    typed = list(arguments.overrides)
    composed = compose_config(directory, arguments.config_name or "train", typed)
    config = settle(composed, typed)
    if not arguments.cfg and config["task"] != "report":
        run_dir = make_run_dir(composed, config, typed)
        quoted = str(run_dir).replace("\\", "\\\\").replace("'", "\\'")
        sys.argv.append(f"hydra.run.dir='{quoted}'")
        if config["task"] == "fit":
            STOP.install()


def make_run_dir(composed: DictConfig, config: Config, typed: list[str]) -> Path:
    """The run's directory, made here so that no other run can have it."""
    was_typed = any(override.lstrip("+").startswith("hydra.run.dir=") for override in typed)
    for group in ("data", "model", "optimizer"):  # a checkpoint may have chosen others
        composed[group].name = config[group]["name"]
    run_dir = Path(str(OmegaConf.select(composed, "hydra.run.dir")))
    if config.get("resume") and not was_typed:
        return Path(config["resume"])
    try:
        run_dir.mkdir(parents=True, exist_ok=was_typed)
    except OSError as error:
        raise Refusal(f"hydra.run.dir={run_dir}: cannot be made: {error.strerror}; choose another") from None
    taken = (run_dir / "config.yaml").is_file() and "LOCAL_RANK" not in os.environ
    if taken and not config.get("resume"):
        raise Refusal(f"hydra.run.dir={run_dir}: holds a run already; resume={run_dir} continues it")
    if not os.access(run_dir, os.W_OK):
        raise Refusal(f"hydra.run.dir={run_dir}: cannot be written; choose another")
    return run_dir


def compose_config(directory: Path, name: str, typed: list[str]) -> DictConfig:
    """What Hydra makes of these overrides, with Hydra's own node."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base="1.3", job_name="train"):
        return compose(name, overrides=typed, return_hydra_config=True)


def _refuse_argument(message: str) -> NoReturn:
    raise Refusal(f"{message}; keys are typed as key=value, see python train.py --help")


def _unknown_choice(error: MissingConfigException) -> str:
    group, _, choice = str(error.missing_cfg_file or "").rpartition("/")
    if not group or error.options is None:
        return str(error).splitlines()[0]
    return f"{group}={choice}: no such choice.{did_you_mean(choice, error.options)}"


def _composition(error: Exception) -> str:
    """One line that names the key, out of what Hydra and OmegaConf say in several."""
    said = str(error)
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not of the form key=value ({said.splitlines()[0]})"
    cause = error.__cause__
    unknown = re.search(r"(?:Could not override|Could not delete from config\.) '([^']+)'", said)
    if unknown and isinstance(error, ConfigCompositionException):
        return f"{unknown[1]}: no such key.{_near(unknown[1])}"
    return f"{said.splitlines()[0]} {str(cause).splitlines()[0] if cause and str(cause) else ''}"


def _near(key: str) -> str:
    """The nearest key beside it, in a run of the same groups where they can be had."""
    config: Any = OmegaConf.to_container(compose_config(CONFIGS, "train", _group_choices()))
    parent, _, name = key.replace("/", ".").rpartition(".")
    for step in parent.split(".") if parent else ():
        config = config.get(step) if isinstance(config, dict) else None
    siblings = [key for key in config if key != "hydra"] if isinstance(config, dict) else []
    return did_you_mean(name, siblings, prefix=f"{parent}." if parent else "")


def _group_choices() -> list[str]:
    typed = [override for override in sys.argv[1:] if override.split("=")[0] in (*GROUPS, "task")]
    try:
        compose_config(CONFIGS, "train", typed)
    except (HydraException, OmegaConfBaseException):
        return []
    return typed
