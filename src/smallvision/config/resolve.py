"""From what Hydra composed to the one ``Config`` of a start: merged with what a run or a checkpoint fixes, typed and
checked. Needs no torch.
"""

import copy
import os
from importlib.util import find_spec
from pathlib import Path

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from smallvision.config.compose import CHOICES, alias, names_of, parse, plain
from smallvision.config.schema import GROUPS, NOT_OF_OWN_MODULE, Config, Data, Trainer
from smallvision.config.targets import check_targets, use
from smallvision.config.untrusted import check_checkpoint_file, load_run_config
from smallvision.core.errors import UserError, did_you_mean
from smallvision.core.results import TRAIN_AND_VAL, Results
from smallvision.core.run_dir import RunDir, as_typed, shell_line, using

# Keys and sections that may be typed with resume=: when and where the run goes on, and what it saves and shows, but
# nothing by which its epochs so far would have been others.
WITH_RESUME = (
    "resume", "use", "data_dir", "data.path", "data.offline", "data.eval_batch_size", "trainer.max_epochs",
    "trainer.max_steps", "trainer.max_time", "trainer.devices", "trainer.strategy", "trainer.num_nodes",
    "trainer.timeout", "trainer.profiler", "trainer.detect_anomaly", "trainer.log_every_n_steps", "device", "logger",
    "checkpoint", "test", "report", "save_model", "log_every_n_batches", "callbacks.progress", "hydra",
)  # fmt: skip
# Tasks that start from a checkpoint, which fixes everything else, and what may be typed with each.
WITH_CHECKPOINT = {
    "test": ("task", "use", "name", "checkpoint", "data_dir", "data", "tta", "device", "trainer", "report", "hydra"),
    "predict": ("task", "use", "name", "checkpoint", "images", "predict", "tta", "device", "hydra"),
    "export": ("task", "use", "checkpoint", "format", "data_dir", "data", "tta", "device", "hydra"),
    "serve": ("task", "use", "checkpoint", "serve", "tta", "device", "hydra"),
}
WITH_STATE_DICT = ("model", "experiment")  # with task=test of a plain state dict, which does not hold its network
TASKS_WITHOUT_DATA = ("predict", "export", "serve", "clean")
# Training images of data sets whose size is known before they are read.
TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "digits": 1_437}
# Optional packages: the modules that a choice needs, by the names to install them by.
PACKAGES = {
    "logger=tensorboard": {"tensorboard": "tensorboard"},
    "logger=mlflow": {"mlflow": "mlflow-skinny"},
    "logger=wandb": {"wandb": "wandb"},
    "format=onnx": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
    "format=safetensors": {"safetensors": "safetensors"},
    "model=timm": {"timm": "timm"},
    "task=serve": {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"},
}


def force(overrides: list[str]) -> list[str]:
    """The same overrides as Hydra is to compose them: forced in where a run or a checkpoint has the keys.

    What Hydra composes then is not the run's own config and may lack a key that the run has. Whether it has it is
    checked by :func:`merge_overrides`.
    """
    parsed = parse(overrides)
    given = {override.key_or_group: override.value() for override in parsed if not override.is_delete()}
    begun = given.get("resume") or given.get("rerun")
    if begun is None and str(given.get("task")) not in WITH_CHECKPOINT:
        return overrides
    return [
        line if line[:1] in "+~" or override.key_or_group in CHOICES else f"++{line}"
        for override, line in zip(parsed, overrides, strict=True)
    ]


def checkpoint_to_read(composed: DictConfig, overrides: list[str]) -> Path | None:
    """The file that a task starts from, None for tasks that start from none.

    Raises UserError for everything that can be known to be wrong before the file is opened.
    """
    tree = plain(composed)
    task = str(tree.get("task"))
    if task not in WITH_CHECKPOINT:
        return None
    allowed = (*WITH_CHECKPOINT[task], *(WITH_STATE_DICT if task == "test" else ()))
    refuse_other_keys(parse(overrides), allowed, "the checkpoint fixes it")
    if not isinstance(tree["checkpoint"], str):
        raise UserError(f"checkpoint={tree['checkpoint']}: must be a file")
    _check_packages(f"task={task}")
    _check_packages(f"format={tree.get('format')}")
    file = Path(tree["checkpoint"])
    check_checkpoint_file(file)
    return file


def resolve_config(
    composed: DictConfig, overrides: list[str], checkpoint_config: dict[str, object] | None = None
) -> Config:
    """The typed, checked config of a start.

    ``composed``: what Hydra made of the (forced) ``overrides``. With ``resume=`` or ``rerun=``, or with the config of
    the checkpoint that the task starts from, that config counts, and only what was typed is merged into it.

    Raises UserError for whatever no run could use.
    """
    parsed = parse(overrides)
    for override in parsed:
        if override.is_delete() and override.key_or_group != "experiment":
            raise UserError(f"~{override.key_or_group}: a key cannot be left out; set it, to null where it may be")
    tree = plain(composed)
    for key in ("task", "seed", "data_dir", *GROUPS, "trainer", "early_stopping"):
        if tree.get(key) is None:
            raise UserError(f"{key}: cannot be left out")
    for key in ("resume", "rerun"):
        if not isinstance(tree.get(key), str | None):
            raise UserError(f"{key}={tree[key]}: must be a run directory")
    resume, rerun, used = tree.get("resume"), tree.get("rerun"), names_of(tree.get("use"), "use")
    tree["use"] = used or None
    use(used)
    if tree["task"] == "fit" and resume is not None:
        reason = (
            "resume= continues the run as it was, with another trainer.max_epochs, device, logger, checkpoint or"
            f" display; {as_typed('rerun', resume)} starts a new run with other values"
        )
        saved = load_run_config(Path(str(resume)))
        refuse_other_keys(parsed, WITH_RESUME, reason)
        refuse_other_code(saved, as_typed("resume", resume), used)
        tree = merge_overrides(saved, tree, parsed)
    elif tree["task"] == "fit" and rerun is not None:
        saved = load_run_config(Path(str(rerun)), "rerun")
        refuse_other_code(saved, as_typed("rerun", rerun), used)
        tree = merge_overrides(saved, tree, parsed)
        tree.pop("continued", None)
    elif checkpoint_config is not None:
        refuse_other_keys(parsed, WITH_CHECKPOINT[str(tree["task"])], "the checkpoint fixes it")
        refuse_other_code(checkpoint_config, as_typed("checkpoint", tree["checkpoint"]), used)
        tree = merge_overrides(checkpoint_config, tree, parsed)
    config = Config.from_dict(tree)
    check(config)
    check_module(config, parsed)
    if tree["task"] == "fit" and resume is not None:
        refuse_finished(RunDir(Path(str(resume))), config, Trainer.from_dict(saved["trainer"], "trainer"))
    typed = any(override.key_or_group == "save_model" for override in parsed)
    if config.save_model is not None and not typed:
        # A config out of a file does not choose what is overwritten outside of the run directory.
        path = Path(os.path.expanduser(config.save_model))  # noqa: PTH111 - Path's own raises for an unknown user
        if path.is_absolute() or ".." in path.parts:
            raise UserError(
                f"save_model={config.save_model}: lies outside of the run directory; if you want that, type it on the"
                f" command line: save_model={config.save_model}"
            )
    return config


def refuse_finished(run_dir: RunDir, config: Config, before: Trainer) -> None:
    """Raise UserError where that run, begun with ``before``, is complete and ``config`` asks for no more of it."""
    try:
        results = Results.read(run_dir.results_json)
    except UserError:  # killed
        return
    untested = config.test and results.data.test and not results.times_tested
    asked = config.save_model is not None and results.saved_model is None and results.cut_short is None
    if results.status != "completed" or run_dir.running_json.is_file() or untested or asked or results.unsaved:
        return
    trainer, epochs = config.trainer, results.epochs
    limits = [key for key in ("max_steps", "max_time") if getattr(before, key) not in (-1, None)]
    mend = f"trainer.max_epochs={2 * epochs} goes on"
    if epochs < trainer.max_epochs:
        if epochs == before.max_epochs or any(getattr(trainer, key) != getattr(before, key) for key in limits):
            return
        mend = f"trainer.{limits[0]}= goes on" if limits else f"{as_typed('rerun', run_dir.path)} starts a new run"
    raise UserError(f"resume={run_dir.path}: nothing to continue: it is complete after {epochs} epochs; {mend}")


def refuse_other_code(saved: dict[str, object], where: str, used: list[str]) -> None:
    """Raise UserError where a config out of a file was made with code of somebody's own that is not typed now."""
    missing = [name for name in names_of(saved.get("use"), f"{where}: use") if name not in used]
    if missing:
        typed = shell_line(*using([*used, *missing]))
        raise UserError(f"{where}: was made with code outside of smallvision; if you trust it, type {typed} as well")


def refuse_other_keys(overrides: list[Override], allowed: tuple[str, ...], reason: str) -> None:
    """Raise UserError where anything else than the ``allowed`` keys and sections was typed."""
    for override in overrides:
        key = key_of(override)
        if not is_within(key, allowed):
            raise UserError(f"{key}: cannot be changed here: {reason}")


def key_of(override: Override) -> str:
    """What was typed, as a key of the config."""
    return override.key_or_group.split("@")[0].replace("/", ".")


def is_within(key: str, sections: tuple[str, ...]) -> bool:
    """Whether a key is one of the ``sections`` and keys, or within one."""
    return any(key == one or key.startswith(f"{one}.") for one in sections)


def check_module(config: Config, overrides: list[Override]) -> None:
    """Raise UserError for an impossible monitor, and for what means nothing to a LightningModule of the user's own."""
    target, monitor = config.module.target, config.module.monitor
    if not config.module.is_own and monitor not in (None, *TRAIN_AND_VAL):
        raise UserError(f"module.monitor={monitor}: no such metric.{did_you_mean(str(monitor), TRAIN_AND_VAL)}")
    if monitor is not None and config.module.mode is None:
        raise UserError(f"module.monitor={monitor}: which values are better? Type module.mode=max or module.mode=min")
    if not config.module.is_own:
        return
    for override in overrides:
        key = key_of(override)
        if is_within(key, NOT_OF_OWN_MODULE):
            raise UserError(f"{key}: has no meaning for {target}, which has a network, loss and optimizer of its own")
    if config.task == "bench":
        raise UserError(f"task=bench: measures the project's own training, not that of {target}")
    if config.early_stopping.patience is not None and monitor is None:
        raise UserError("early_stopping.patience: needs a metric: module.monitor=NAME module.mode=min")


def merge_overrides(
    saved: dict[str, object], composed: dict[str, object], overrides: list[Override]
) -> dict[str, object]:
    """``saved`` with the task of ``composed`` and with every typed group and key taken from it.

    Raises UserError where a typed key is in no run of that kind.
    """
    task_keys = {"task", "resume", "rerun", *(composed.keys() - saved.keys())}
    if isinstance(composed.get("checkpoint"), str):
        task_keys.add("checkpoint")
    merged = copy.deepcopy(saved) | {key: composed[key] for key in composed if key in task_keys}
    for override in overrides:
        *path, name = override.key_or_group.split(".")
        if [*path, name][0] == "hydra":
            continue
        source: object = composed
        target: object = merged
        for part in path:
            source = source.get(part) if isinstance(source, dict) else None
            target = target.get(part) if isinstance(target, dict) else None
        known = target if isinstance(target, dict) else {}
        if not isinstance(source, dict) or name not in source or not (name in known or override.is_add()):
            nearest = did_you_mean(name, known, prefix=".".join([*path, ""]))
            raise UserError(f"{override.key_or_group}: no such key.{nearest}")
        if target is not known:
            raise UserError(f"{override.key_or_group}: its section is null; set the section as a whole")
        known[name] = source[name]
    return merged


# What no type can say ------------------------------------------------------------------------------------------


def check(config: Config) -> None:
    """Raise UserError for what can be known to be wrong without torch and without reading data."""
    if config.task == "fit" and isinstance(config.checkpoint, str):
        tasks = ", ".join(WITH_CHECKPOINT)
        raise UserError(
            f"checkpoint={config.checkpoint}: goes with task={tasks}; a run is continued with resume=RUN_DIR"
        )
    if config.task == "fit" and config.checkpoint is None:
        raise UserError("checkpoint=null: must be a section of keys, as in configs/task/fit.yaml")
    check_targets(config)
    if config.task not in TASKS_WITHOUT_DATA:
        _check_data(config.data)
    _check_packages(f"logger={config.logger.name}")
    _check_packages("model=timm" if config.model.target == "smallvision.models.TimmNetwork" else "")
    weights = config.model.extra.get("weights")
    is_file = isinstance(weights, str) and not weights.isidentifier() and config.model.target.startswith("smallvision.")
    if is_file and config.task == "fit" and config.resume is None and not os.path.isfile(str(weights)):  # noqa: PTH113
        raise UserError(f"model.weights={weights}: no such file")
    if config.save_model is not None and config.data.normalisation.whiten:
        raise UserError(
            f"save_model={config.save_model}: a plain state dict has no place for data.normalisation.whiten;"
            " use task=export"
        )
    if config.early_stopping.patience is not None and config.data.val_size == 0:
        raise UserError("early_stopping.patience: needs validation images; set data.val_size above 0")
    if (config.trainer.min_epochs or 0) > config.trainer.max_epochs:
        raise UserError("trainer.min_epochs: must not be larger than trainer.max_epochs")
    for key in ("precision", "accelerator", "default_root_dir"):
        if key in config.trainer.extra:
            value = config.trainer.extra[key]
            meant = str(alias(key, [f"{key}={value}"]))
            raise UserError(f"trainer.{key}: type {meant if '=' in meant else f'{meant}={value}'} instead")
    if "callbacks" in config.trainer.extra:
        raise UserError(
            "trainer.callbacks: callbacks have a section of their own: type '+callbacks.NAME={_target_:"
            " lightning.pytorch.callbacks.NAME}', see configs/callbacks/default.yaml"
        )


def _check_packages(choice: str) -> None:
    """Raise UserError where a module that the choice needs is not installed."""
    packages = PACKAGES.get(choice, {})
    if any(find_spec(module) is None for module in packages):
        plural = "packages" if len(packages) > 1 else "a package"
        raise UserError(f"{choice}: needs {plural}: pip install {' '.join(packages.values())}")


def _check_data(data: Data) -> None:
    path = data.extra.get("path")
    if isinstance(path, str):
        expanded = os.path.expanduser(path)  # noqa: PTH111 - Path's own raises for an unknown user
        is_folder = data.name == "folder"
        if not (os.path.isdir(expanded) if is_folder else os.path.exists(expanded)):  # noqa: PTH110, PTH112
            raise UserError(f"data.path={path}: no such {'folder' if is_folder else 'file'}")
    count = data.extra.get("images") if data.name == "shapes" else TRAINING_IMAGES.get(data.name)
    if isinstance(count, int) and isinstance(data.val_size, int) and data.val_size >= count:
        raise UserError(
            f"data.val_size={data.val_size}: larger than the data, which has {count} training images;"
            f" use a value below {count}"
        )
