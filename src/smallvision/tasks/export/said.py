"""What every exported file says about itself, as words: it goes into the file's own metadata."""

import hashlib
import json
from typing import Any

from smallvision.config.compose import merge_overrides
from smallvision.config.schema import Config
from smallvision.tasks.export.module import Standalone
from smallvision.training.predictor import Predictor

VERSION = "1"  # of these words


def own_config(trained: Predictor, config: Config) -> dict[str, Any]:
    """The config that the network was trained by, with what younger versions brought, and with the views
    that it is exported with.
    """
    saved = trained.plain["config"]
    whole = {**merge_overrides(saved, config.to_dict(), []), "task": "fit", "tta": config["tta"]}
    if isinstance(saved.get("checkpoint"), dict):
        whole["checkpoint"] = saved["checkpoint"]
    else:  # the exported file, where the first configs have no such section
        del whole["checkpoint"]
    return {key: value for key, value in whole.items() if key not in ("resume", "format")}


def said(trained: Predictor, own: dict[str, Any]) -> dict[str, str]:
    """Values are JSON, but for the first three. ``own``: see :func:`own_config`."""
    plain = trained.plain
    return {
        "smallvision": VERSION,
        "input": "images: uint8, N x C x H x W, 0 to 255",
        "output": "probabilities: float32, N x classes",
        **{name: json.dumps(plain[name]) for name in ("shape", "classes", "mean", "std", "data")},
        "config": json.dumps(own),
    }


def identity(module: Standalone, words: dict[str, str], own: dict[str, Any]) -> str:
    """Sixteen hex digits that change when a weight, a view or any of the words but the config does, which
    grows with smallvision.
    """
    parts = {**words, "config": [own["model"], own["tta"]]}
    whole = hashlib.sha256(json.dumps(parts).encode())
    for name, tensor in sorted(module.state_dict().items()):
        whole.update(name.encode())
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()[:16]
