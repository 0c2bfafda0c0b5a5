"""The command line's manners: wrong input is refused early, in one line, with exit code 2."""

import os
import re
import sys
from collections.abc import Iterator, Sequence
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

from smallvision.config import GROUPS, settle
from smallvision.errors import Interrupted, Refusal, did_you_mean

CONFIGS = Path(sys.argv[0]).resolve().parent / "configs"


@contextmanager
def manners() -> Iterator[None]:
    """Around Hydra's main: check the command line first, and turn what is raised into an exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises, and this function says it
    try:
        check_command_line(sys.argv[1:])
        yield
    except Refusal as refusal:
        refuse(str(refusal))
    except MissingConfigException as error:
        refuse(_unknown_choice(error))
    except (HydraException, OmegaConfBaseException) as error:
        refuse(_composition(error))
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def refuse(line: str) -> NoReturn:
    print("error:", " ".join(line.split()), file=sys.stderr)
    sys.exit(2)


def check_command_line(argv: Sequence[str]) -> None:
    """Compose and settle what was typed, for a single run; raises whatever is wrong with it.

    A run that continues or that reads a checkpoint gets its directory here: Hydra opens that before any
    of our code runs.
    """
    parser = get_args_parser()
    parser.error = _refuse_argument  # type: ignore[method-assign]
    arguments = parser.parse_args(list(argv))
    shown = arguments.help or arguments.hydra_help or arguments.info
    if shown or arguments.shell_completion or arguments.multirun or arguments.experimental_rerun:
        return
    directory = Path(arguments.config_path or arguments.config_dir or CONFIGS).resolve()
    name = arguments.config_name or "train"
    typed = list(arguments.overrides)
    composed = compose_config(directory, name, typed)
    if arguments.cfg:
        return
    config = settle(composed, typed)
    if any(override.lstrip("+").startswith("hydra.run.dir=") for override in typed):
        return
    if config.get("resume") and config["task"] == "fit":
        sys.argv.append(f"hydra.run.dir='{_quoted(config['resume'])}'")


def compose_config(directory: Path, name: str, typed: list[str]) -> DictConfig:
    """What Hydra makes of these overrides, without Hydra's own node."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base="1.3", job_name="train"):
        return compose(name, overrides=typed)


def _refuse_argument(message: str) -> NoReturn:
    raise Refusal(f"{message}; keys are typed as key=value, see python train.py --help")


def _quoted(value: Any) -> str:
    return str(value).replace("\\", "\\\\").replace("'", "\\'")


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
        return f"{unknown[1]}: no such key.{did_you_mean(unknown[1], known_keys())}"
    return f"{said.splitlines()[0]} {str(cause).splitlines()[0] if cause and str(cause) else ''}"


def known_keys() -> list[str]:
    """Every full key of the default run, and the groups."""
    config = OmegaConf.to_container(compose_config(CONFIGS, "train", []))
    keys: list[str] = [*GROUPS, "task", "experiment"]

    def walk(prefix: str, node: Any) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(f"{prefix}{key}.", value)
            keys.append(f"{prefix}{key}")

    walk("", config)
    return sorted(set(keys))
