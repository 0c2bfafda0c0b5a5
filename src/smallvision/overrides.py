"""What was typed, and what of it is laid over a config that a run already has."""

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from smallvision.errors import Refusal, did_you_mean

GROUPS = ("data", "model", "optimizer", "scheduler", "device", "logger")
CHOICES = (*GROUPS, "task", "experiment")
Config = dict[str, Any]
# Keys and sections that may be typed with resume=: those that leave what was learnt, and the images that
# it was learnt from and chosen by, as they are.
ON_RESUME = (
    "resume", "data_dir", "data.path", "data.offline", "data.eval_batch_size", "data.augmentation", "trainer",
    "optimizer", "loss", "scheduler", "device", "logger", "early_stopping", "checkpoint", "report",
    "save_model", "log_every_n_batches", "hydra",
)  # fmt: skip
# Keys of groups that the first checkpoints do not have; their defaults change nothing.
YOUNGER = {
    "device": ("compile",),
    "data": ("shuffle",),
    "data.augmentation": ("rotate", "scale"),
    "data.normalisation": ("whiten",),
}
# Tasks that take a checkpoint, which says the rest, and the keys and sections that may be typed with each.
WITH_CHECKPOINT = {
    "test": ("task", "checkpoint", "data_dir", "data", "tta", "device", "trainer", "report", "hydra"),
    "predict": ("task", "checkpoint", "images", "predict", "tta", "device", "hydra"),
    "export": ("task", "checkpoint", "format", "data_dir", "data", "tta", "device", "hydra"),
    "serve": ("task", "checkpoint", "serve", "tta", "device", "hydra"),
}


# May be typed with task=test where the file is a bare state dict, which says nothing of its network.
WITH_BARE_WEIGHTS = ("model", "experiment")


def parse(typed: list[str]) -> list[Override]:
    try:
        return OverridesParser.create().parse_overrides(typed)
    except (ValueError, AssertionError, RecursionError) as error:  # Hydra's parser gives way
        raise Refusal(f"{' '.join(typed)[:200]}: not understood ({error})") from None


def refuse_others(overrides: list[Override], allowed: tuple[str, ...], reason: str) -> None:
    """Raise Refusal where something else than the ``allowed`` keys and sections was typed."""
    for override in overrides:
        key = override.key_or_group.split("@")[0].replace("/", ".")
        if not any(key == one or key.startswith(f"{one}.") for one in allowed):
            raise Refusal(f"{key}: cannot be changed here: {reason}")


def loosened(typed: list[str]) -> list[str]:
    """The same overrides, for Hydra, of a run that continues or of a checkpoint.

    What Hydra composes then is not the run's own config and may lack a key that this has. So values are
    forced in; :func:`lay_over` holds them against the run's own keys.
    """
    overrides = parse(typed)
    given = {override.key_or_group: override.value() for override in overrides if not override.is_delete()}
    if given.get("resume") is None and str(given.get("task")) not in WITH_CHECKPOINT:
        return typed
    plain = [
        line[:1] not in "+~" and o.key_or_group not in CHOICES
        for o, line in zip(overrides, typed, strict=True)
    ]
    return [
        f"++{o.input_line}" if forced else line
        for o, forced, line in zip(overrides, plain, typed, strict=True)
    ]


def lay_over(saved: Config, composed: Config, overrides: list[Override]) -> Config:
    """``saved`` with every typed group and key taken from ``composed``, and with keys that it lacks.

    Raises Refusal where a typed key is in no run of that kind.
    """
    config = {**composed, **{key: value for key, value in saved.items() if key in composed}}
    config = _with_younger_keys(config, composed)
    for key in ("task", "resume"):
        config[key] = composed[key]
    if isinstance(composed.get("checkpoint"), str):
        config["checkpoint"] = composed["checkpoint"]
    kind = _kind(saved["optimizer"])
    for override in overrides:
        path = override.key_or_group.split(".")
        if path[0] == "hydra":
            continue
        source: Any = composed
        target: Any = config
        for name in path[:-1]:
            source = source.get(name) if isinstance(source, dict) else None
            target = target.get(name) if isinstance(target, dict) else None
        known = target if isinstance(target, dict) else {}
        if (
            not isinstance(source, dict)
            or path[-1] not in source
            or not (path[-1] in known or override.is_add())
        ):
            near = did_you_mean(path[-1], known, prefix=".".join([*path[:-1], ""]))
            raise Refusal(f"{override.key_or_group}: no such key.{near}")
        target[path[-1]] = source[path[-1]]
    if _kind(config["optimizer"]) != kind:
        raise Refusal(f"optimizer: a run keeps its kind ({kind}); its values can change: optimizer.lr=VALUE")
    return config


def _kind(optimizer: Any) -> str:
    """What moves the weights, and what the rest of them."""
    rest = optimizer.get("rest") if isinstance(optimizer, dict) else None
    parts = [part["_target_"] for part in (optimizer, rest) if isinstance(part, dict) and "_target_" in part]
    return " and ".join(map(str, parts))


def _with_younger_keys(config: Config, composed: Config) -> Config:
    """``config`` with the keys that it lacks because a younger smallvision brought them."""
    config = {
        key: {**composed[key], **saved} if key not in GROUPS and _both(saved, composed.get(key)) else saved
        for key, saved in config.items()
    }
    for section, names in YOUNGER.items():
        *above, last = section.split(".")
        saved, young = config, composed
        for part in above:
            saved[part] = dict(saved[part]) if isinstance(saved.get(part), dict) else {}
            saved, young = saved[part], young[part]
        if isinstance(saved.get(last), dict):
            saved[last] = {
                **{name: young[last][name] for name in names if name in young[last]},
                **saved[last],
            }
    return config


def _both(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)
