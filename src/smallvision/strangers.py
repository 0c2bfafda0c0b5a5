"""Config folders other than ours: what Hydra itself would run out of them is refused before it can.

Hydra calls what its own node names: callbacks, launcher, sweeper, the handlers of its logging; it imports
the packages of its search path and sets environment variables. Ours needs none of that but two targets.
"""

from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from smallvision.errors import Refusal

TARGETS = {
    "launcher": {"hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    "sweeper": {
        "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
        "hydra_plugins.smallvision_sweeper.SmallvisionSweeper",
    },
}
EMPTY = {
    "callbacks": "callbacks",
    "job.env_set": "environment variables",
}
LOGGING = ("job_logging", "hydra_logging")
HANDLERS = {"logging.StreamHandler", "logging.FileHandler"}  # those of Hydra's own defaults
STREAMS = {"ext://sys.stdout", "ext://sys.stderr"}


def refuse_search_path(directory: Path, name: str) -> None:
    """Before Hydra composes: a config out of a run directory has values and nothing else.

    Raises Refusal where it would have Hydra import packages (``hydra.searchpath``).
    """
    file = directory / f"{name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        return  # Hydra says so
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except Exception as error:  # PyYAML has a dozen kinds for a file that is no YAML
        raise Refusal(f"{file}: cannot be read ({error})") from None
    node = content.get("hydra") if isinstance(content, dict) else None
    if isinstance(node, dict) and node.get("searchpath"):
        raise Refusal(f"{file}: hydra.searchpath: not allowed in a file")


def check_hydra(composed: DictConfig) -> None:
    """Raise Refusal where Hydra's own node would run or import anything."""
    node: Any = OmegaConf.to_container(composed.hydra, resolve=False)
    for key, words in EMPTY.items():
        found = node
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found:
            raise Refusal(f"hydra.{key}: {words} of Hydra's are not allowed here")
    for section in LOGGING:
        _check_logging(f"hydra.{section}", node.get(section) or {})
    for section, allowed in TARGETS.items():
        target = (node.get(section) or {}).get("_target_")
        if target is not None and target not in allowed:
            raise Refusal(f"hydra.{section}._target_={target}: not allowed here")


def _check_logging(key: str, node: Any) -> None:
    """Refuse what logging.config would import or call: factories, classes, objects by their path."""
    for name, value in node.items() if isinstance(node, dict) else enumerate(node):
        here = f"{key}.{name}"
        factory = name in ("()", "filters") or (name == "class" and value not in HANDLERS)
        if factory or (isinstance(value, str) and "://" in value and value not in STREAMS):
            raise Refusal(f"{here}={value}: not allowed here")
        if isinstance(value, (dict, list)):
            _check_logging(here, value)
