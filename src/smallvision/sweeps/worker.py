"""A process that takes one run after another until none is left; what is loaded stays loaded.

``python -m smallvision.sweeps.worker NAME`` reads its plan from standard input and stops, after the step
that it is in, where that is closed: so no worker outlives the sweep that started it.
"""

import gc
import json
import os
import signal
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

from smallvision.cli import compose_config, in_one_line
from smallvision.config.compose import resolve_config
from smallvision.config.untrusted import check_hydra
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.run_dir import opened
from smallvision.core.system import STOP
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.study import Claim, Queue

LAST_LINES = 20
INTERRUPTED = 130


def work(plan: Plan, name: str) -> int:
    """Take runs until none is left; the process's exit code."""
    queue = Queue(plan, name)
    while STOP.signal is None and (claim := queue.next()) is not None:
        print(f"\ntrial {claim.number}, seed {claim.seed}", flush=True)
        try:
            finish(queue, claim, result(plan, queue, claim))
        except Interrupted:
            queue.put_back(claim)
            break
        except UserError as refusal:
            print(f"error: {refusal}", flush=True)
            queue.failed(claim, str(refusal))
        except Exception as error:  # a fault of one trial is no other's
            told = traceback.format_exc()
            print(told, flush=True)
            short = " ".join(f"{type(error).__name__}: {error}".split())
            queue.failed(claim, "\n".join([short, *told.splitlines()[-LAST_LINES:]]))
        gc.collect()  # Trainer, model and loader hold each other
    return INTERRUPTED if STOP.signal is not None else 0


def result(plan: Plan, queue: Queue, claim: Claim) -> dict[str, Any]:
    """The results.json of that run: found, continued or run from the start."""
    found = ended(claim.directory)
    if found is not None:
        return found
    begun = (claim.directory / "config.yaml").is_file()
    typed = [f"resume={quoted(claim.directory)}"] if begun else plan.overrides(claim.params, claim.seed)
    sys.argv[1:] = typed  # environment.json tells the command line
    config = composed(plan, typed)
    fit = import_module("smallvision.tasks.fit")

    def each_epoch(rows: list[Any]) -> None:
        figures = ((row["epoch"], row[plan.metric]) for row in rows if row[plan.metric] is not None)
        queue.report(claim, figures)

    claim.directory.mkdir(parents=True, exist_ok=True)
    with opened(claim.directory, typed) as run:
        return fit.run(config, run, each_epoch=each_epoch, tests=not plan.searches)


def composed(plan: Plan, typed: list[str]) -> dict[str, Any]:
    """The config of one run. Raises UserError where it could not be run."""
    with in_one_line():
        tree = compose_config(plan.configs, plan.config_name, typed)
        check_hydra(tree)
        config = resolve_config(tree, typed)
    refuse_unfit(config)
    return config


def finish(queue: Queue, claim: Claim, figures: dict[str, Any]) -> None:
    """Tell the queue what the run came to."""
    more = {"seconds": figures["seconds"]["total"], "stand_in": figures["data"]["stand_in_for"]}
    value = figures["metrics"][queue.plan.metric]
    if figures["status"] == "pruned":
        queue.pruned(claim, f"{queue.plan.pruner} pruner, after epoch {figures['epochs']}", **more)
    elif value is None:
        queue.failed(claim, f"{queue.plan.metric}: no such figure; was the run validated?")
    else:
        queue.done(claim, value, **more)


def ended(directory: Path) -> dict[str, Any] | None:
    """The results of a run that came to its end before its worker could tell."""
    try:
        figures = json.loads((directory / "results.json").read_text())
    except (OSError, ValueError):
        return None
    return figures if figures.get("status") in ("completed", "pruned") else None


def refuse_unfit(config: dict[str, Any]) -> None:
    """Raise UserError for what only a run by itself can do."""
    if config["task"] != "fit":
        raise UserError(f"task={config['task']}: a sweep is of fits")
    if config["trainer"]["devices"] not in (1, [0], "auto") or config["trainer"]["num_nodes"] != 1:
        raise UserError("trainer.devices: 1 for each run of a sweep; use sweep.workers for more at once")
    if config["data"]["val_size"] == 0 or config["trainer"]["limit_val_batches"] == 0:
        raise UserError("data.val_size=0: a sweep is judged by validation images")


def quoted(path: Path) -> str:
    """As a value of an override, whatever is in it."""
    escaped = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def line_from(descriptor: int) -> str:
    """One line of what is not buffered."""
    read = bytearray()
    while not read.endswith(b"\n") and (byte := os.read(descriptor, 65536)):
        read += byte
    return read.decode()


def leash() -> None:
    """Wait for standard input's end, then ask for the stop that a signal would ask for."""
    while os.read(0, 1):
        pass
    STOP.signal = STOP.signal or "end of the sweep"


def begin(plan: Plan, name: str) -> int:
    """Work on a plan in this process, which SIGTERM stops after its step; the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which then asks its workers
    STOP.numbers = (signal.SIGTERM,)
    STOP.install()
    sys.argv = [str(plan.configs.parent / "train.py")]
    import_module("smallvision.tasks.fit")  # with torch, which no trial is to wait for
    gc.freeze()  # what is imported stays: not to be looked through after each trial
    try:
        return work(plan, name)
    except Interrupted:  # asked twice
        return INTERRUPTED


def main() -> None:
    plan = Plan.from_json(line_from(0))
    threading.Thread(target=leash, daemon=True).start()
    code = begin(plan, os.environ["SMALLVISION_WORKER"])
    sys.stdout.flush()
    os._exit(code)  # threads of libraries may not be waited for


if __name__ == "__main__":
    main()
