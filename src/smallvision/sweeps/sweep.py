"""A sweep from its command line to its best trial."""

import subprocess
import sys
import time

from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from smallvision.config.compose import quote
from smallvision.core.console import Console
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir, write_text
from smallvision.core.system import STOP
from smallvision.reports import leaderboard
from smallvision.sweeps.collect import read_runs, read_study
from smallvision.sweeps.command_line import make_plan
from smallvision.sweeps.display import ENDED, SweepDisplay
from smallvision.sweeps.study import Study
from smallvision.sweeps.summary import print_summary, write_report
from smallvision.sweeps.workers import Launcher, Workers, make_launcher

POLL_SECONDS = 0.25
LEADERBOARD_SECONDS = 5.0


def run(config: DictConfig, arguments: list[str], config_loader: ConfigLoader) -> None:
    """Run ``python train.py -m arguments``; ``config``: composed of those arguments that sweep nothing."""
    plan, settings = make_plan(config, arguments, config_loader)
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"hydra.sweep.dir={plan.directory}: cannot be made: {error.strerror}") from None
    launcher = make_launcher(plan, settings, str(config.device.name))
    STOP.install()
    study = Study.create(plan)
    retried = study.retry_failed() if settings.retry_failed else 0
    try:
        Sweep(study, launcher).run(retried, settings.test_best)
    except OSError as error:
        raise UserError(
            f"{plan.directory}: {error.strerror or error}; once that is mended the same command goes on"
        ) from None


class Sweep:
    """Carries out a study with the workers of ``launcher``."""

    def __init__(self, study: Study, launcher: Launcher) -> None:
        self.study, self.plan, self.launcher = study, study.plan, launcher
        self.console = Console()

    def run(self, retried: int, test_best: bool) -> None:
        """Everything up to the report. Raises Interrupted after a signal, UserError where every trial failed."""
        started = time.monotonic()
        self.print_header(retried)
        interrupted = self.run_workers()
        if test_best and not interrupted:
            self.test_best()
        view = read_runs(self.study)
        write_report(view)
        print_summary(self.console, view, time.monotonic() - started)
        if interrupted:
            self.console.print("interrupted; the same command continues it", style="bold")
            raise Interrupted
        if view.trials and not view.of("done", "pruned", "running", "waiting"):
            raise UserError(f"sweep {self.plan.name}: every trial failed, see {self.plan.directory}/sweep.html")

    def print_header(self, retried: int) -> None:
        view, plan = read_study(self.study), self.plan
        ended = len(view.of(*ENDED))
        space = [f"{key}={expression}" for key, expression in view.space.items()] or ["nothing"]
        self.console.print(f"smallvision: sweep {plan.name}", style="bold")
        self.console.fields(
            {
                "search": f"{plan.method}, {view.planned} trial{'s' * (view.planned != 1)}, by {plan.metric}",
                "over": space[0],
                **{" " * number: line for number, line in enumerate(space[1:], 1)},
                "seeds": ", ".join(map(str, plan.seeds)),
                "workers": f"{self.launcher.count}",
                "directory": str(plan.directory),
            }
        )
        if ended:
            self.console.fields({"resumed": f"{ended} of {view.planned} trials have ended already"})
        if retried:
            self.console.fields({"retried": f"{retried} trials that failed"})

    def run_workers(self) -> bool:
        """Keep workers running until no run is left; whether a signal ended it before."""
        view = read_study(self.study)
        runs_left = (view.planned - len(view.of(*ENDED))) * len(self.plan.seeds)
        workers = Workers(self.study, self.launcher, min(self.launcher.count, runs_left))
        stopping, written = False, time.monotonic()
        continued: set[int] = set()
        try:
            with SweepDisplay(self.console) as display:
                while workers.running:
                    for message in workers.check(stopping):
                        self.console.print(f"  {message}", style="bold red")
                    if STOP.signal is not None and not stopping:
                        stopping = True
                        workers.stop()
                    view = read_study(self.study)
                    if display.update(view) and time.monotonic() - written > LEADERBOARD_SECONDS:
                        write_text(self.plan.directory / "leaderboard.csv", leaderboard.as_csv(view))
                        written = time.monotonic()
                    time.sleep(POLL_SECONDS)
                    if not workers.running and not stopping:
                        left = self.study.unclaimed() - continued
                        if left:  # by a worker of the sweep before, which had not quite ended
                            continued |= left
                            workers.fill()
                display.update(read_study(self.study))
        except BaseException:  # a second signal, for instance
            workers.kill()
            raise
        return stopping

    def test_best(self) -> None:
        """Test the best trial on the test set, once: the study keeps which one it was."""
        best = read_runs(self.study).best
        if best is None or not self.plan.searches:
            return
        if self.study.test_metrics is not None:
            tested, _ = self.study.test_metrics
            if tested != best.number:
                self.console.print(f"  trial {tested} was tested before; the test set is read once")
            return
        accuracies = {}
        for seed, directory in best.runs.items():
            test_dir = RunDir(self.plan.directory / f"test-{directory.name}")
            checkpoint = RunDir(directory).best_checkpoint
            overrides = ["task=test", f"checkpoint={quote(checkpoint)}", f"hydra.run.dir={quote(test_dir.path)}"]
            script = self.plan.configs.parent / "train.py"
            process = subprocess.run([sys.executable, str(script), *overrides], capture_output=True, text=True)
            if process.returncode != 0:
                self.console.print(f"the best trial could not be tested: {process.stderr.strip()}", style="bold red")
                return
            accuracies[seed] = Results.read(test_dir.results_json).metrics["test/acc"]
        self.study.set_test_metrics(best.number, accuracies)
