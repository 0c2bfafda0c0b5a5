"""The command line: composed once, checked once, dispatched to a task or a sweep; how it ends is the exit code.

Exit codes: 0 done, of a sweep also where some of its trials failed; 2 the user's input is wrong, in one line on
standard error; 1 a fault of ours, with its traceback, or a lost process of a run in several, in one line on each
machine; 130 interrupted.
"""

import argparse
import atexit
import gc
import importlib
import os
import re
import signal
import sys
import textwrap
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from smallvision import __version__
from smallvision.config.compose import CONFIG_DIR, compose, new_run_suffix, one_line_errors, parse, trained
from smallvision.config.resolve import WITH_CHECKPOINT, WITH_STATE_DICT, checkpoint_to_read, force, resolve_config
from smallvision.config.schema import Config
from smallvision.core import ranks
from smallvision.core.console import Console
from smallvision.core.errors import Interrupted, LostProcess, UserError, did_you_mean, printable
from smallvision.core.results import Results
from smallvision.core.run_dir import PROGRAM, RunDir, as_typed, command, folder_name, opened
from smallvision.core.system import STOP, check_device, tune_process

if TYPE_CHECKING:
    from smallvision.training.checkpoint import BareWeights, Checkpoint

WITHOUT_RUN_DIR = ("report", "serve", "clean")
TITLES = {
    "fit": "training {trained} on data={data.name}", "test": "testing {checkpoint}",
    "predict": "predicting with {checkpoint}", "export": "exporting {checkpoint} as {format}",
    "serve": "serving {checkpoint}", "bench": "timing {trained} on data={data.name}",
    "descent": "descent on {descent.function}",
}  # fmt: skip


def main() -> None:
    """``python train.py [flags] [overrides]``."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # of __main__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    tune_process()
    atexit.register(release)
    with exit_codes():
        if ranks.world_size() == 1:
            command_line()
            return
        from smallvision.training import processes

        if ranks.rank() > 0:
            processes.follow(run_task)
            return
        try:
            command_line()
        finally:
            processes.dismiss()


def release() -> None:
    """At the end: torch's libraries need memory once more, so the images are given back first.

    What was imported is not searched for garbage, which would take seconds.
    """
    if release_images():
        gc.collect()
    gc.freeze()


def release_images() -> bool:
    """Those that are kept for the next run in this process; whether there can be any."""
    factory = sys.modules.get("smallvision.training.factory")
    if factory is not None:
        factory.load_images.cache_clear()
    return factory is not None


def command_line() -> None:
    """What rank 0 does, or the only process."""
    arguments = parse_arguments()
    directory = Path(arguments.config_path).resolve() if arguments.config_path else CONFIG_DIR
    only_shows = arguments.help or arguments.hydra_help or arguments.info or arguments.shell_completion
    if only_shows or (arguments.cfg and not arguments.multirun):
        with exit_codes(broken_pipe=0):
            show(arguments, directory)
            sys.stdout.flush()
    elif arguments.multirun:
        sweep(arguments, directory)
    else:
        run(compose(force(arguments.overrides), directory, **source_of(arguments)), arguments.overrides)


def parse_arguments() -> argparse.Namespace:
    """Hydra's own flags, and the overrides. Raises UserError for what is none of them."""
    parser = get_args_parser()
    vars(parser._option_string_actions["--version"])["version"] = f"smallvision {__version__}"  # not Hydra's
    parser.error = _refuse_argument  # type: ignore[method-assign]
    arguments = parser.parse_args()
    if arguments.experimental_rerun:  # it would unpickle a file
        raise UserError("--experimental-rerun: not here; a run is continued with resume=RUN_DIR")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise UserError("--resolve: goes with --cfg job")
    if not (arguments.multirun or arguments.help):
        refuse_sweep_keys(arguments.overrides)
    return arguments


def refuse_sweep_keys(overrides: list[str]) -> None:
    """Raise UserError where keys are typed that only a sweep has."""
    for override in parse(overrides):
        if str(override.key_or_group).split(".")[0] == "sweep":
            raise UserError(f"{override.key_or_group}: goes with a sweep: {command('-m', *overrides)}")


def fit(overrides: list[str], config_dir: Path | None = None) -> Results:
    """Train, from Python. Raises what the command line prints."""
    refuse_sweep_keys(overrides)
    new_run_suffix()
    release_images()  # their files may have changed since the last run
    composed = compose(force(overrides), config_dir=config_dir)
    if composed.task != "fit":
        raise UserError(f"task={composed.task}: fit() trains; for others there is {command('task=' + composed.task)}")
    results = run(composed, overrides)
    assert isinstance(results, Results)
    return results


def source_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Which config is composed, and from which further folder."""
    further = Path(arguments.config_dir) if arguments.config_dir else None
    if further is not None and not further.is_dir():
        raise UserError(f"--config-dir={further}: no such folder")
    return {"name": arguments.config_name or "train", "config_dir": further}


def run(composed: DictConfig, overrides: list[str]) -> Any:
    """Run the task of a composed config; gives its results."""
    file = checkpoint_to_read(composed, overrides)
    if composed.task == "predict":
        from smallvision.data.image_files import find_images

        images = composed.images
        find_images([*map(str, images)] if isinstance(images, ListConfig) else str(images))
    checkpoint, config = None, None if file is not None else resolve_config(composed, overrides)
    if composed.task != "descent":
        check_device(str(OmegaConf.select(composed, "device.name")))
    if file is not None:
        announce(composed)
        checkpoint = read_checkpoint(file, composed, overrides)
        config = resolve_config(composed, overrides, getattr(checkpoint, "config", None))
    assert config is not None
    if config.task in WITHOUT_RUN_DIR:
        return run_task(config, None, checkpoint)
    if config.task == "fit":
        STOP.install()
        STOP.loading = True
    path = run_directory(composed, config, overrides)
    if file is None:
        announce(composed)
    if config.task == "export":  # adds to a run that there is
        return run_task(config, RunDir(path, overrides), checkpoint)
    with opened(path, overrides) as run_dir:
        return run_task(config, run_dir, checkpoint)


def announce(composed: DictConfig) -> None:
    """Print what the command does, before torch is imported, which takes seconds."""
    console, title = Console(), TITLES.get(composed.task)
    if title is not None:
        resumed = OmegaConf.select(composed, "resume") if composed.task == "fit" else None
        text = title.format_map(ChainMap({"trained": trained(composed)}, composed))
        console.print(f"smallvision: {f'continuing {resumed}' if resumed else text}", "bold")
        if "torch" not in sys.modules:
            console.fields({"loading": "PyTorch"})


def run_task(config: Config, run_dir: RunDir | None, checkpoint: "Checkpoint | BareWeights | None") -> Any:
    """Run the verb: that of its module in smallvision.tasks, or of a sweep where the report is of one."""
    if config.task == "report":
        from smallvision.reports.run_view import is_sweep_dir

        if is_sweep_dir(Path(str(config.runs))):
            from smallvision.sweeps import collect

            return collect.report(Path(str(config.runs)), config.storage)
    task = importlib.import_module(f"smallvision.tasks.{config.task}")
    gc.freeze()  # what was imported is no garbage
    return task.run(config, run_dir, checkpoint)


def read_checkpoint(file: Path, composed: DictConfig, overrides: list[str]) -> "Checkpoint | BareWeights":
    """What the task starts from, read once; a plain state dict, which only a test takes, needs ``model=`` typed."""
    from smallvision.training.checkpoint import BareWeights, read_checkpoint, read_weights  # torch comes only now

    if composed.task != "test":
        return read_checkpoint(file)
    weights = read_weights(file)
    if isinstance(weights, BareWeights) and not any(
        override.key_or_group in WITH_STATE_DICT for override in parse(overrides)
    ):
        raise UserError(f"{file}: a plain state dict does not hold its network; type model=NAME and data=NAME as well")
    return weights


def run_directory(composed: DictConfig, config: Config, overrides: list[str]) -> Path:
    """The run's directory, made here so that no other run can have it; shown relative where it lies below.

    It is the one that was typed, that of the run to be continued or of the checkpoint to be exported, or a new one.
    """
    if ranks.restarts():
        from smallvision.training import processes

        earlier = processes.earlier_directory()
        if earlier is not None:
            return earlier
    typed = any(override.lstrip("+").startswith("hydra.run.dir=") for override in overrides)
    if config.task == "export" and not typed:
        folder = config.checkpoint_file.parent
        path = folder.parent if folder.name == "checkpoints" else folder
    elif config.resume and not typed:
        path, typed = Path(config.resume), True
    else:
        names = {"data": config.data.name, "model": config.trained, "optimizer": config.trained_by}
        for group, name in names.items():  # a checkpoint may have chosen others
            composed[group].name = name
        own = config.data.extra.get("path")
        if isinstance(own, str):
            composed.data.name = folder_name(own)
        with one_line_errors(overrides):
            path = Path(str(OmegaConf.select(composed, "hydra.run.dir")))
    try:
        path.mkdir(parents=True, exist_ok=typed or config.task == "export")
    except OSError as error:
        raise UserError(f"hydra.run.dir={path}: cannot be made: {error.strerror}; choose another") from None
    taken = (path / "config.yaml").is_file()
    if taken and not config.resume and config.task != "export":  # which adds to a run
        raise UserError(f"hydra.run.dir={path}: holds a run already; {as_typed('resume', path)} continues it")
    if not os.access(path, os.W_OK):
        raise UserError(f"hydra.run.dir={path}: cannot be written; choose another")
    absolute = path.resolve()
    if ranks.by_torchrun():
        from smallvision.training import processes

        processes.remember_directory(absolute)
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else path


def sweep(arguments: argparse.Namespace, directory: Path) -> None:
    """``-m``: many runs."""
    overrides = list(arguments.overrides)
    for override in parse(overrides):
        if override.key_or_group.startswith("hydra/"):
            raise UserError(f"{override.key_or_group}: not here; sweep= and sweep.launcher= choose how a sweep runs")
    composed = compose(overrides, directory, **source_of(arguments), sweep=True)
    Console().print(f"smallvision: a sweep of {trained(composed)} on data={composed.data.name}", "bold")
    from smallvision.sweeps import sweep as sweeps

    with hydra.initialize_config_dir(str(directory), version_base="1.3"), one_line_errors(overrides):
        context = GlobalHydra.instance().hydra
        assert context is not None
        sweeps.run(
            composed, [line for line in overrides if not line.startswith("hydra.")], directory, context.config_loader
        )


def show(arguments: argparse.Namespace, directory: Path) -> None:
    """What ``--help`` and Hydra's flags show."""
    if arguments.help:
        show_help(arguments.overrides, directory)
        return
    if arguments.cfg:
        resolve_config(compose(force(arguments.overrides), directory, **source_of(arguments)), arguments.overrides)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra is to raise; exit_codes prints it
    with one_line_errors(arguments.overrides):
        hydra.main(version_base="1.3", config_path=str(CONFIG_DIR), config_name="train")(lambda composed: None)()


def show_help(overrides: list[str], directory: Path) -> None:
    """The verbs and each choice with its meaning, on one screen; of choices that are typed, with or without their
    group, their keys instead, and of a group its choices.
    """
    composed = compose(force([one for one in overrides if "=" in one]), directory)
    choices = sorted(directory.glob("*/[!_]*.yaml"))
    typed = [one.lstrip("+") for one in overrides]
    files = [file for one in typed for file in choices if one in (file.stem, f"{file.parent.name}={file.stem}")]
    others = [one.partition(".")[0] for one in typed if "=" not in one and one not in {file.stem for file in files}]
    for name in others:
        keys = re.search(rf"^{re.escape(name)}:.*\n( .*\n)*", (CONFIG_DIR / "train.yaml").read_text(), re.MULTILINE)
        if not keys and not any(file.parent.name == name for file in choices):
            nearest = did_you_mean(name, {file.parent.name for file in choices})
            raise UserError(f"--help {name}: no such group, choice or section.{nearest}")
        print_choices(directory / name)
        print(keys[0] if keys else "", end="")
    for file in files:
        text, group = described(file), file.parent.name
        print(f"{group}={file.stem}\n\n{text}")
        if group == "task" and file.stem in WITH_CHECKPOINT:
            print("Also:", ", ".join(key for key in WITH_CHECKPOINT[file.stem] if f"\n{key}:" not in text))
    if files or others:
        return
    page = composed.hydra.help
    print(page.template.replace("python train.py", PROGRAM))
    for group in ("model", "data", "loss", "optimizer", "scheduler", "device", "logger", "sweep"):
        print_choices(directory / group, hidden="own")
    experiments = ", ".join(file.stem for file in choices if file.parent.name == "experiment")
    print(textwrap.fill(f"experiment {experiments}", 79, subsequent_indent=" " * 11))
    print(page.footer.replace("python train.py", PROGRAM))


def print_choices(group: Path, hidden: str = "") -> None:
    """A line of each, without the ``hidden`` one."""
    files = [file for file in sorted(group.glob("[!_]*.yaml")) if file.stem != hidden]
    width = max([13, *(len(file.stem) for file in files)])
    for number, file in enumerate(files):
        meaning = re.match(r"# (.{,55})(?=[.,:;]\s)", described(file).replace(". ", ".\n"))
        print(f"{'' if number else group.name:<10} {file.stem:<{width}} {meaning[1] if meaning else ''}")


def described(file: Path) -> str:
    """A choice's comments and keys, without what only Hydra needs."""
    return re.sub(r"^(# @package|defaults:|hydra:).*\n([ \t]+.*\n)*", "", file.read_text(), flags=re.MULTILINE)


# How it ends -----------------------------------------------------------------------------------------------


@contextmanager
def exit_codes(broken_pipe: int = 1) -> Iterator[None]:
    """What the block raises becomes one line and an exit code; ``broken_pipe``: that of a reader who has gone."""
    try:
        yield
    except UserError as error:
        _print_error(error, ranks.rank())
        sys.exit(2)
    except LostProcess as error:
        _print_error(error, ranks.local_rank())
        sys.exit(1)
    except (Interrupted, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(broken_pipe)


def _print_error(error: Exception, rank: int) -> None:
    if rank == 0:
        print("error:", printable(" ".join(str(error).split())), file=sys.stderr)


def _refuse_argument(message: str) -> NoReturn:
    raise UserError(f"{message}; keys are typed as key=value, see {command('--help')}")


if __name__ == "__main__":  # a process of a run that another process has started
    main()
