"""A sweep from its command line to its winner."""

import json
import subprocess
import sys
import time
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf

from smallvision.core.console import Console
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.run_dir import write_text
from smallvision.core.system import STOP
from smallvision.reports import leaderboard
from smallvision.sweeps import collect
from smallvision.sweeps import study as store
from smallvision.sweeps import summary as conclusion
from smallvision.sweeps.command_line import make_plan, refuse_hopeless
from smallvision.sweeps.display import SweepDisplay
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.worker import quoted
from smallvision.sweeps.workers import Pool, launcher, workers_of

LOOK_SECONDS, DRAW_SECONDS = 0.25, 5.0


def run(config: DictConfig, arguments: list[str], config_loader: Any) -> None:
    """Carry out ``python train.py -m arguments``; ``config``: what Hydra made of those that sweep nothing."""
    plan, settings = make_plan(config, arguments, config_loader)
    refuse_hopeless(plan)
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"hydra.sweep.dir={plan.directory}: cannot be made: {error.strerror}") from None
    device = str(config.device.name)
    count = workers_of(settings, device)
    start = launcher(plan, settings, count, device)
    STOP.install()
    study = store.begin(plan)
    console = Console()
    introduce(console, plan, study, count)
    if settings["retry_failed"] and (again := store.retry_failed(study)):
        console.print(f"  trying {again} failed trials again")
    write_text(plan.directory / "sweep.yaml", OmegaConf.to_yaml(config.sweep))
    started = time.monotonic()
    try:
        interrupted = watch(plan, study, console, Pool(plan, min(count, runs_left(plan, study)), start))
        if not interrupted and settings["test_best"]:
            test_best(plan, study, console)
        view = collect.view(plan, study, plan.directory, whole=True)
        conclusion.draw(view)
    except OSError as error:
        raise UserError(
            f"{plan.directory}: {error.strerror or error}; with that mended the same command goes on"
        ) from None
    conclusion.tell(console, view, time.monotonic() - started)
    if interrupted:
        console.print("interrupted; the same command continues it", style="bold")
        raise Interrupted
    if view.trials and not view.of("done", "pruned", "running", "waiting"):
        raise UserError(f"sweep {plan.name}: every trial failed, see {plan.directory}/sweep.html")


def watch(plan: Plan, study: optuna.Study, console: Console, pool: Pool) -> bool:
    """Look after the workers until nothing is left to do; whether it was interrupted before."""
    drawn, stopping = time.monotonic(), False
    taken_up: set[int] = set()
    try:
        with SweepDisplay(console) as display:
            while pool.workers:
                for line in pool.watch(stopping):
                    console.print(f"  {line}", style="bold red")
                if STOP.signal is not None and not stopping:
                    stopping = True
                    pool.stop()
                view = collect.view(plan, study, plan.directory)
                if display.show(view) and time.monotonic() - drawn > DRAW_SECONDS:
                    write_text(plan.directory / "leaderboard.csv", leaderboard.as_csv(view))
                    drawn = time.monotonic()
                time.sleep(LOOK_SECONDS)
                if not pool.workers and not stopping:
                    whole = collect.view(plan, study, plan.directory, whole=True)
                    cut = {trial.number for trial in whole.of("interrupted")}
                    if cut - taken_up:  # by a worker of a sweep before, which had not quite ended
                        taken_up |= cut
                        pool.fill()
            display.show(collect.view(plan, study, plan.directory))
    except BaseException:  # asked twice
        pool.kill()
        raise
    return stopping


def runs_left(plan: Plan, study: optuna.Study) -> int:
    """How many there still are to do, of all trials and seeds; at most."""
    view = collect.view(plan, study, plan.directory)
    over = view.of("done", "pruned", "failed")
    return (view.planned - len(over)) * len(plan.seeds)


def introduce(console: Console, plan: Plan, study: optuna.Study, count: int) -> None:
    view = collect.view(plan, study, plan.directory)
    over = len(view.of("done", "pruned", "failed"))
    console.print(f"smallvision: sweep {plan.name}", style="bold")
    space = [f"{one.key}={one.expression}" for one in plan.dimensions] or ["nothing"]
    pairs = {
        "search": f"{plan.method}, {view.planned} trial{'s' * (view.planned != 1)}, by {plan.metric}",
        "over": space[0],
        **{" " * number: line for number, line in enumerate(space[1:], 1)},
        "seeds": ", ".join(map(str, plan.seeds)),
        "workers": f"{count}",
        "directory": str(plan.directory),
    }
    console.fields(pairs)
    if over:
        console.print(f"  goes on   {over} of {view.planned} trials are over already")


def test_best(plan: Plan, study: optuna.Study, console: Console) -> None:
    """Test the winner's runs on the test set, once; the store keeps which one it was."""
    best = collect.view(plan, study, plan.directory).best
    if best is None or not plan.searches:
        return
    tested_before = study.user_attrs.get("test")
    if tested_before is not None:
        if tested_before["trial"] != best.number:
            console.print(f"  trial {tested_before['trial']} was tested before; the test set is read once")
        return
    figures = {}
    for seed, run_dir in best.runs.items():
        tested = plan.directory / f"test-{run_dir.name}"
        typed = ["task=test", f"checkpoint={quoted(run_dir / 'checkpoints/best.ckpt')}"]
        process = subprocess.run(
            [
                sys.executable,
                str(plan.configs.parent / "train.py"),
                *typed,
                f"hydra.run.dir={quoted(tested)}",
            ],
            capture_output=True,
            text=True,
        )
        if process.returncode != 0:
            console.print(f"the winner could not be tested: {process.stderr.strip()}", style="bold red")
            return
        figures[str(seed)] = json.loads((tested / "results.json").read_text())["metrics"]["test/acc"]
    study.set_user_attr("test", {"trial": best.number, "figures": figures})
