"""What each key may hold, checked before torch is imported."""

import math
import re
import reprlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from smallvision.core.errors import UserError, did_you_mean

Config = dict[str, Any]
GROUPS = ("data", "model", "optimizer", "scheduler", "device", "logger")


@dataclass(frozen=True)
class Rule:
    """``holds(value)`` says whether it may; ``words`` completes "must be ..."."""

    words: str
    holds: Callable[[Any], bool]

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(f"{self.words} or {other.words}", lambda v: self.holds(v) or other.holds(v))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    largest = sys.float_info.max
    return (_is_whole(value) or isinstance(value, float)) and -largest <= value <= largest


def whole(low: int, high: int | None = None) -> Rule:
    """A whole number; without ``high`` up to 2**31 - 1, which is more than anything counts here."""
    words = f"a whole number from {low} to {high}" if high is not None else f"a whole number, at least {low}"
    last = high if high is not None else 2**31 - 1
    return Rule(words, lambda v: _is_whole(v) and low <= v <= last)


def number(
    low: float = -math.inf, high: float = math.inf, *, above: float | None = None, below: float | None = None
) -> Rule:
    """A finite number in [low, high]; ``above`` and ``below`` are the bounds that it may not reach."""
    bounds = []
    if above is not None:
        bounds.append(f"above {above:g}")
    elif low > -math.inf:
        bounds.append(f"at least {low:g}")
    if below is not None:
        bounds.append(f"below {below:g}")
    elif high < math.inf:
        bounds.append(f"at most {high:g}")

    def holds(v: Any) -> bool:
        if not _is_number(v) or not low <= v <= high:
            return False
        return (above is None or v > above) and (below is None or v < below)

    return Rule(" ".join(["a number", " and ".join(bounds)]).strip(), holds)


def one_of(*values: Any) -> Rule:
    words = ", ".join("null" if value is None else str(value) for value in values)
    return Rule(
        f"one of {words}",
        lambda v: any(v is value or (v == value and type(v) is type(value)) for value in values),
    )


def many(rule: Rule, length: int | None = None, least: int = 0) -> Rule:
    count = f"{length} " if length is not None else f"at least {least} " if least else ""

    def holds(v: Any) -> bool:
        if not isinstance(v, list) or len(v) < least or (length is not None and len(v) != length):
            return False
        return all(rule.holds(item) for item in v)

    return Rule(f"a list of {count}entries, each {rule.words}", holds)


truth = Rule("true or false", lambda v: isinstance(v, bool))
text = Rule("a word", lambda v: isinstance(v, str) and bool(v.strip()))
# Becomes a part of a folder's name, also where a stranger's checkpoint says it.
plain_name = Rule(
    "a word of letters, digits, - and _", lambda v: isinstance(v, str) and bool(re.fullmatch(r"[\w-]+", v))
)
null = Rule("null", lambda v: v is None)
duration = Rule("DD:HH:MM:SS", lambda v: isinstance(v, str) and bool(re.fullmatch(r"\d\d(:\d\d){3}", v)))
# Not .ckpt, .yaml or .json: nothing else that a run writes can be meant by mistake.
weights_file = Rule(
    "a file that ends in .pt or .pth",
    lambda v: isinstance(v, str) and bool(re.fullmatch(r"[^\0\n]*[^/\0\n]\.pth?", v)),
)
batches = whole(1) | Rule("a share between 0.0 and 1.0", lambda v: isinstance(v, float) and 0 < v <= 1)

OPTIMIZER: dict[str, Rule] = {
    "lr": number(above=0),
    "momentum": number(0, below=1),
    "dampening": number(0, 1),
    "weight_decay": number(0),
    "betas": many(number(0, below=1), length=2),
    "eps": number(0),
    "nesterov": truth,
    "amsgrad": truth,
    "maximize": truth,
    "capturable": truth,
    "differentiable": truth,
    "decoupled_weight_decay": truth,
    "foreach": null | truth,
    "fused": null | truth,
    "ns_steps": whole(1, 99),
    "ns_coefficients": many(number(), length=3),
    "adjust_lr_fn": one_of(None, "original", "match_rms_adamw", "spectral_unclamped"),
}
section = Rule("a section of keys", lambda v: isinstance(v, dict))
anything = Rule("anything", lambda v: True)
SWEEP: dict[str, Rule] = {  # held against a sweep's section when there is one: sweeps/plan.py
    "sweep.name": null | plain_name,
    "sweep.method": one_of("grid", "random", "tpe"),
    "sweep.metric": text,
    "sweep.direction": one_of("auto", "maximize", "minimize"),
    "sweep.trials": whole(1),
    "sweep.seeds": null | whole(1),
    "sweep.sampler_seed": whole(0, 2**32 - 1),
    "sweep.space": section,
    "sweep.space.*": text,
    "sweep.workers": null | whole(1, 1024),
    "sweep.per_device": whole(1, 64),
    "sweep.pruner": one_of("none", "median", "percentile", "successive_halving", "hyperband", "threshold", "wilcoxon"),
    "sweep.pruner_options": section,
    "sweep.pruner_options.*": anything,
    "sweep.storage": null | text,
    "sweep.retry_failed": truth,
    "sweep.test_best": truth,
    "sweep.launcher": one_of("local", "slurm"),
    "sweep.launcher_options": section,
    "sweep.launcher_options.*": anything,
}
PARAM_KINDS = ("weight", "bias", "norm", "head")

# By the full key; the first pattern that matches counts. Keys of a user's own model or data set that
# stand in no row are held against their class's signature when it is built.
RULES: dict[str, Rule] = {
    "task": text,
    "seed": whole(0, 2**32 - 1),
    "data_dir": text,
    "resume": null | text,
    "runs": text,
    "storage": null | text,
    "report": truth,
    "save_model": null | weights_file,
    "log_every_n_batches": null | whole(1),
    "checkpoint": text,
    "images": text | many(text, least=1),
    "predict.top": whole(1),
    "predict.polarity": one_of("auto", "keep", "invert"),
    "predict.frame": one_of("auto", "squeeze", "crop", "pad"),
    "predict.saliency": truth,
    "predict.sheet": whole(0, 1000),
    "format": one_of("onnx", "torch_export", "safetensors"),
    "serve.host": text,
    "serve.port": whole(0, 65_535),
    "serve.most": whole(1, 1024),
    "serve.megabytes": number(above=0, high=1024),
    "bench.rounds": whole(1),
    "bench.seconds": number(above=0),
    "bench.large": truth,
    "descent.function": one_of("parabola", "ravine", "rosenbrock", "himmelblau", "all"),
    "descent.start": null | number(-1000, 1000) | many(number(-1000, 1000), least=1),
    "descent.steps": null | whole(1, 10_000),
    "descent.rates": OPTIMIZER["lr"] | many(OPTIMIZER["lr"]),
    "descent.against": text | many(text),
    "descent.animation": truth,
    "checkpoint.every_n_steps": null | whole(1),
    "checkpoint.every_n_minutes": null | number(above=0),
    "checkpoint.keep": whole(1, 100),
    "trainer.max_epochs": whole(1),
    "trainer.min_epochs": null | whole(1),
    "trainer.max_steps": one_of(-1) | whole(1),
    "trainer.max_time": null | duration,
    "trainer.limit_*_batches": null | batches,
    "trainer.check_val_every_n_epoch": whole(1),
    "trainer.accumulate_grad_batches": whole(1),
    "trainer.gradient_clip_val": null | number(above=0),
    "trainer.gradient_clip_algorithm": one_of(None, "norm", "value"),
    "trainer.deterministic": truth | one_of("warn"),
    "trainer.detect_anomaly": truth,
    "trainer.profiler": one_of(None, "simple", "advanced", "pytorch"),
    "trainer.devices": whole(1) | many(whole(0), least=1) | one_of("auto", -1),
    "trainer.strategy": text,
    "trainer.num_nodes": whole(1),
    "early_stopping.patience": null | whole(0),
    "early_stopping.min_delta": number(0, 1),
    "loss.label_smoothing": number(0, below=1),
    "tta.flip": truth,
    "tta.shift": whole(0),
    "data.val_size": whole(0),
    "data.batch_size": whole(1),
    "data.eval_batch_size": whole(1),
    "data.drop_last": truth,
    "data.shuffle": truth,
    "data.offline": one_of("stand_in", "error"),
    "data.augmentation.flip": truth | one_of("alternating"),
    "data.augmentation.shift": whole(0),
    "data.augmentation.cutout": whole(0),
    "data.augmentation.rotate": number(0, 180),
    "data.augmentation.scale": number(0, below=1),
    "data.normalisation.whiten": whole(0, 8),
    "data.normalisation.mean": null | many(number(0, 1), least=1),
    "data.normalisation.std": null | many(number(above=0), least=1),
    "data.images": whole(1),
    "data.test_images": whole(0),
    "data.size": whole(1, 1024),
    "data.channels": whole(1, 4),
    "data.classes": whole(2),
    "data.difficulty": number(0, 1),
    "data.seed": whole(0, 2**32 - 1),
    "data.path": text,
    "data.test_share": number(0, below=1),
    "model.widths": many(whole(1), least=1),
    "model.depths": many(whole(0), least=1),
    "model.hidden": many(whole(1)),
    "model.dropout": number(0, below=1),
    **{f"{section}.{name}": rule for section in ("optimizer", "optimizer.rest") for name, rule in OPTIMIZER.items()},
    **{f"param_groups.{kind}.lr": null | number(0) for kind in PARAM_KINDS},
    **{f"param_groups.{kind}.weight_decay": null | number(0) for kind in PARAM_KINDS},
    "scheduler.warmup": number(0, 1),
    "scheduler.final": number(0, 1),
    "device.name": one_of("auto", "cpu", "cuda", "mps"),
    "device.precision": one_of("auto", 32, "32", "32-true", "bf16-mixed", "16-mixed"),
    "device.memory_format": one_of("auto", "channels_last", "contiguous"),
    "device.threads": null | whole(1),
    "device.compile": truth,
    "logger.experiment_name": text,
    "logger.tracking_uri": null | text,
    "logger.project": text,
    "logger.offline": truth,
    "logger.graph": truth,
    **{f"{section}.name": plain_name for section in ("data", "model", "optimizer", "scheduler", "logger")},
    **{f"{section}._target_": text for section in ("data", "model", "optimizer", "optimizer.rest", "scheduler")},
    "logger._target_": null | text,
    **SWEEP,
}
SECTIONS = (
    "trainer", "early_stopping", "loss", "tta", "param_groups",
    *(f"param_groups.{kind}" for kind in PARAM_KINDS), "data", "data.augmentation", "data.normalisation",
    "model", "optimizer", "scheduler", "device", "logger",
)  # fmt: skip
# Sections that may have keys of their own, which Trainer or the target checks; but not these parts of them.
OPEN = ("trainer.", "data.", "model.", "optimizer.", "scheduler.", "logger.")
CLOSED = ("data.augmentation.", "data.normalisation.")
NEEDED = (
    "task", "seed", "data_dir", "trainer.max_epochs", "trainer.min_epochs", "trainer.deterministic",
    "early_stopping.patience", "early_stopping.min_delta", "loss.label_smoothing", "tta.flip", "tta.shift",
    "data.name", "data._target_", "data.val_size", "data.batch_size", "data.eval_batch_size",
    "data.drop_last", "data.augmentation", "data.normalisation", "data.normalisation.whiten", "model.name",
    "model._target_", "optimizer.name", "optimizer._target_", "optimizer.lr", "scheduler.name",
    "scheduler._target_", "device.name", "device.precision", "device.memory_format", "device.threads",
    "device.compile",
    "logger.name", "logger._target_",
)  # fmt: skip


def rule_for(key: str) -> Rule | None:
    """The rule of a full key such as ``optimizer.lr``."""
    return next((rule for pattern, rule in RULES.items() if fnmatchcase(key, pattern)), None)


def check(config: dict[str, Any]) -> None:
    """Raise UserError at the first key whose value it may not hold, or that does not exist."""
    for section in SECTIONS:
        node: Any = config
        for name in section.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict):
            raise UserError(f"{section}={_shown(node)}: must be a section of keys, as in configs/train.yaml")
    _walk("", config)
    for key in NEEDED:
        node = config
        for name in key.split("."):
            if name not in node:
                raise UserError(f"{key}: missing; set {key}=VALUE")
            node = node[name]


def _walk(prefix: str, node: dict[str, Any]) -> None:
    for name, value in node.items():
        key = f"{prefix}{name}"
        rule = rule_for(key)
        if isinstance(value, dict) and any(pattern.startswith(f"{key}.") for pattern in RULES):
            _walk(f"{key}.", value)
        elif rule is not None and not rule.holds(value):
            raise UserError(f"{key}={_shown(value)}: must be {rule.words}")
        elif rule is None and (not key.startswith(OPEN) or key.startswith(CLOSED)):
            if not prefix:
                raise UserError(f"{key}: no such key; configs/train.yaml shows them all")
            siblings = [known.removeprefix(prefix) for known in RULES if known.startswith(prefix)]
            raise UserError(f"{key}: no such key.{did_you_mean(str(name), siblings, prefix)}")


def _shown(value: Any) -> str:
    """As it would be typed; a list or section, which a stranger's file may make endless, shortened."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return reprlib.repr(value) if isinstance(value, (dict, list)) else str(value)
