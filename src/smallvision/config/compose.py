"""From the command line to the one ``Config`` of a start: composed by Hydra once, merged with what a run or a
checkpoint already fixes, typed and checked. Needs no torch.
"""

import copy
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
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

from smallvision.config.schema import GROUPS, Config, Data, Trainer
from smallvision.config.targets import check_targets, use
from smallvision.config.untrusted import check_checkpoint_file, check_hydra, load_run_config, refuse_search_path
from smallvision.core.errors import UserError, did_you_mean
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir, as_typed, command, find_run, quote, shell_line, using

CONFIG_DIR = Path(__file__).parents[3] / "configs"
CHOICES = (*GROUPS, "task", "experiment")
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
TASKS_WITHOUT_DATA = ("predict", "export", "serve")
# Training images of data sets whose size is known before they are read.
TRAINING_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000, "digits": 1_437}
# Optional packages: the modules that a choice needs, by the names to install them by.
PACKAGES = {
    "logger=tensorboard": {"tensorboard": "tensorboard"},
    "logger=mlflow": {"mlflow": "mlflow-skinny"},
    "logger=wandb": {"wandb": "wandb"},
    "format=onnx": {"onnx": "onnx", "onnxscript": "onnxscript", "onnxruntime": "onnxruntime"},
    "format=safetensors": {"safetensors": "safetensors"},
    "task=serve": {"starlette": "starlette", "uvicorn": "uvicorn", "python_multipart": "python-multipart"},
}
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
_SUFFIX = secrets.choice("abcdef") + secrets.token_hex(3)[1:]

OmegaConf.register_new_resolver("run_suffix", lambda name=None: name or _SUFFIX, replace=True)
OmegaConf.register_new_resolver("last_part", lambda target: str(target).rpartition(".")[2], replace=True)


# Hydra's composition -----------------------------------------------------------------------------------------


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
        resolve_config(compose(as_list, directory, name), as_list)
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
        for section in GROUPS
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
    """A key that ends alike or is known by that name elsewhere, or the nearest one of the same section; in a config
    of the same choices where these can be composed.
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
    meant = min(alike, key=len) if alike else alias(path[-1], overrides) or key
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


# One config ----------------------------------------------------------------------------------------------------


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
    tree = _plain(composed)
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
    tree = _plain(composed)
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
        key = override.key_or_group.split("@")[0].replace("/", ".")
        if not any(key == one or key.startswith(f"{one}.") for one in allowed):
            raise UserError(f"{key}: cannot be changed here: {reason}")


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


def _plain(composed: DictConfig) -> dict[str, object]:
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
            raise UserError(f"trainer.{key}: type {alias(key, [f'{key}={config.trainer.extra[key]}'])} instead")
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
        if not (os.path.isdir(expanded) if is_folder else os.path.isfile(expanded)):  # noqa: PTH112, PTH113
            raise UserError(f"data.path={path}: no such {'folder' if is_folder else 'file'}")
    count = data.extra.get("images") if data.name == "shapes" else TRAINING_IMAGES.get(data.name)
    if isinstance(count, int) and isinstance(data.val_size, int) and data.val_size >= count:
        raise UserError(
            f"data.val_size={data.val_size}: larger than the data, which has {count} training images;"
            f" use a value below {count}"
        )
