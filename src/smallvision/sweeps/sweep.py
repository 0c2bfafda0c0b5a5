"""A sweep from its command line to its best trial."""

import math
import subprocess
import sys
import time
from contextlib import closing, nullcontext, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from hydra.core.config_loader import ConfigLoader
from omegaconf import DictConfig

from smallvision.core.console import Console
from smallvision.core.errors import Interrupted, UserError, without_password
from smallvision.core.results import Results
from smallvision.core.run_dir import (
    RunDir,
    assign,
    clear_scratch,
    installed,
    is_locked,
    start_command,
    typed_use,
    write_text,
)  # fmt: skip
from smallvision.core.system import STOP
from smallvision.sweeps.collect import read_curve, read_runs, read_study, write_report
from smallvision.sweeps.executors import Event, Executor, make_executor
from smallvision.sweeps.plan import make_plan
from smallvision.sweeps.storage import JOURNAL
from smallvision.sweeps.study import Study
from smallvision.sweeps.terminal import SweepDisplay, print_header, print_summary
from smallvision.sweeps.trial import Reason, TrialRun

POLL_SECONDS = 0.25
LEADERBOARD_SECONDS = 5.0
MAX_ENDS = 3  # of processes in a row that did not bring a run on, or that began none


def run(config: DictConfig, arguments: list[str], configs: Path, config_loader: ConfigLoader) -> None:
    """Run ``python train.py -m arguments``; ``config``: composed from ``configs`` of those that sweep nothing."""
    plan, settings = make_plan(config, arguments, configs, config_loader)
    try:
        plan.directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"hydra.sweep.dir={plan.directory}: cannot be made: {error.strerror}") from None
    STOP.install()
    # In a database several processes can share the directory, too; on Slurm each would cancel the others' jobs.
    shared = plan.in_database and settings.launcher == "local"
    try:
        with (
            nullcontext() if shared else FileLock(plan.directory / ".lock", timeout=0),
            closing(Study.create(plan)) as study,
        ):
            devices, runs = config.trainer.devices, plan.count * len(plan.seeds)
            processes = devices if isinstance(devices, int) else 1
            executor = make_executor(plan.directory, settings, runs, str(config.device.name), processes)
            Sweep(study, executor).run(study.retry_failed() if settings.retry_failed else 0, settings.test_best)
    except Timeout:
        raise UserError(f"{plan.directory}: another process is at work on this sweep; wait for its end") from None
    except OSError as error:
        raise UserError(
            f"{plan.directory}: {error.strerror or error}; once that is mended the same command goes on"
        ) from None


class Sweep:
    """Carries out a study by ``executor``: asks for trials, starts their runs, follows and judges them."""

    def __init__(self, study: Study, executor: Executor) -> None:
        self.study, self.plan, self.executor = study, study.plan, executor
        self.console = Console()
        self.running: dict[Path, TrialRun] = {}  # by run directory
        self.foreign: set[Path] = set()  # of those, the ones that a process of the sweep before has not quite left
        # Of runs whose process ended before them: when their last.ckpt was written, and how often they did not get on.
        self.ends: dict[Path, tuple[int, int]] = {}
        self.waits = False  # for other processes, which was printed
        self.startup_ends = 0  # in a row, before any trial had begun

    def run(self, retried: int, test_best: bool) -> None:
        """Everything up to the report. Raises Interrupted after a signal; where every trial failed, UserError if all
        were refused, else it exits with 1.
        """
        started = time.monotonic()
        print_header(self.console, read_study(self.study), self.executor.slots, retried)
        interrupted = self.run_trials()
        if test_best and not interrupted:
            self.test_best()
        view = read_runs(self.study, at_work=False)
        write_report(view)
        print_summary(self.console, view, time.monotonic() - started)
        storage = without_password(self.plan.storage or str(self.plan.directory.resolve() / JOURNAL))
        self.console.fields({"dashboard": installed("optuna-dashboard", storage)})
        if interrupted:
            self.console.print("interrupted; the same command continues it", style="bold")
            raise Interrupted
        if view.trials and not view.of("done", "pruned", "running", "waiting"):
            message = f"sweep {self.plan.name}: every trial failed, see {self.plan.directory}/sweep.html"
            if all(trial.refused for trial in view.trials):
                raise UserError(f"{message}; sweep.retry_failed=true tries them again")
            print("error:", message, file=sys.stderr)
            sys.exit(1)

    def run_trials(self) -> bool:
        """Start runs until none is left; whether a signal ended it before."""
        stopping, written = False, time.monotonic()
        try:
            with SweepDisplay(self.console) as display:
                while True:
                    if STOP.signal is not None and not stopping:
                        stopping = True
                        self.executor.stop()
                    if not stopping:
                        self.submit_runs()
                    if not self.running and (stopping or not self.others_at_work()):
                        break
                    for event in self.executor.wait(POLL_SECONDS):
                        self.handle(event, stopping)
                    self.look_around()
                    self.study.keep_alive()
                    view = read_study(self.study)
                    if display.update(view) and time.monotonic() - written > LEADERBOARD_SECONDS:
                        write_text(self.plan.directory / "leaderboard.csv", view.as_csv())
                        written = time.monotonic()
                display.update(read_study(self.study))
        except Interrupted:  # while it waited for the database
            self.save_runs()
            raise
        finally:
            self.executor.close()
        return stopping

    def others_at_work(self) -> bool:
        """Whether other processes still carry out trials, which this one adopts should they die."""
        hosts = self.study.at_work_elsewhere()
        if hosts and not self.waits:
            self.console.print(f"  waiting for trials of {', '.join(sorted(set(hosts.values())))}")
            self.waits = True
        return bool(hosts)

    def save_runs(self) -> None:
        """Stop all runs and wait until they are saved, without the study."""
        self.executor.stop()
        while self.running:
            for event in self.executor.wait(POLL_SECONDS):
                if event.kind == "epoch":
                    self.executor.go_on(event.run)
                else:
                    self.running.pop(event.run.directory, None)

    def submit_runs(self) -> None:
        """Fill the free slots. What a killed sweep did not store is stored now, and not run again."""
        new: list[TrialRun] = []
        while len(self.running) + len(new) < self.executor.slots:
            run = self.study.next_run([*self.running.values(), *new])
            if run is None:
                break
            results = run.finished()
            if results is not None:
                self.store(run, results)
                continue
            if is_locked(run.directory):
                self.foreign.add(run.directory)
                self.running[run.directory] = run
            else:
                new.append(run)
        self.running |= {run.directory: run for run in new}
        self.executor.submit(new)

    def handle(self, event: Event, stopping: bool) -> None:
        run = event.run
        if event.kind == "epoch":
            self.judge(run)
            self.executor.go_on(run)
            return
        del self.running[run.directory]
        results = run.finished()
        if event.kind == "ended" and event.reason is not None:
            self.fail(run, event.reason)
        elif results is not None:
            self.store(run, results)
        elif not stopping:
            self.record_end(
                run, event.reason.text if event.reason else f"the run of trial {run.number} was interrupted"
            )

    def store(self, run: TrialRun, results: Results) -> None:
        self.study.report(run, self.curve(run))
        self.study.store(run, results)

    def record_end(self, run: TrialRun, cause: str) -> None:
        """A run whose process ended before it goes on in another one, unless that does not bring it on."""
        checkpoint = RunDir(run.directory).last_checkpoint
        saved = checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0
        before, times = self.ends.get(run.directory, (0, 0))
        times = times + 1 if saved == before else 1
        self.ends[run.directory] = saved, times
        if not RunDir(run.directory).config_file.is_file():
            self.startup_ends += 1
            if self.startup_ends == MAX_ENDS:
                raise RuntimeError(f"{MAX_ENDS} processes in a row ended before any trial began: {cause}")
        else:
            self.startup_ends = 0
        failed = times == MAX_ENDS
        outcome = "failed" if failed else "goes on"
        self.console.print(f"  {cause.partition(chr(10))[0]}; trial {run.number} {outcome}", style="bold red")
        if failed:
            self.fail(run, Reason(f"{cause}\nin {MAX_ENDS} processes in a row"))

    def fail(self, run: TrialRun, reason: Reason) -> None:
        """End its trial, and what other seeds of it are running."""
        self.study.fail(run, reason)
        clear_scratch(run.directory)  # nobody continues it
        for other in self.running.values():
            if other.number == run.number:
                self.prune(other)

    def look_around(self) -> None:
        """Look at the directories of runs that report to nobody."""
        for run in list(self.running.values()):
            if run.directory in self.foreign:
                if not is_locked(run.directory):
                    self.foreign.remove(run.directory)
                    del self.running[run.directory]
            elif run.prunable and not self.executor.asks:
                self.judge(run)

    def judge(self, run: TrialRun) -> None:
        """Store the metric of the epochs so far; where the pruner decides against the run, stop it."""
        if self.study.report(run, self.curve(run)):
            self.prune(run)

    def prune(self, run: TrialRun) -> None:
        with suppress(FileNotFoundError):  # it has not begun
            RunDir(run.directory).stop_file.write_text("pruned\n")

    def curve(self, run: TrialRun) -> dict[int, float]:
        """Its metric by epoch, as far as it was validated."""
        curve = read_curve(run.directory, self.plan.metric)
        return {epoch: value for epoch, value in curve.items() if not math.isnan(value)}

    def test_best(self) -> None:
        """Test the best trial on the test set, once: the study keeps which one it was."""
        best = read_runs(self.study, at_work=False).best
        if best is None or not self.plan.searches:
            return
        if self.study.test_metrics is not None:
            tested, _ = self.study.test_metrics
            if tested != best.number:
                self.console.print(f"  trial {tested} was tested before; the test set is read once")
            return
        if not self.study.take(self.study.trials[best.number]):
            self.console.print(f"  trial {best.number} is tested where it was carried out: {best.host}")
            return
        accuracies = {}
        for seed, directory in best.runs.items():
            test_dir = RunDir(self.plan.directory / f"test-{directory.name}")
            checkpoint = RunDir(directory).best_checkpoint
            overrides = ["task=test", assign("checkpoint", checkpoint), assign("hydra.run.dir", test_dir.path)]
            start = start_command(*overrides, *typed_use(self.plan.fixed))
            process = subprocess.run(start, capture_output=True, text=True)
            if process.returncode != 0:
                self.console.print(f"the best trial could not be tested: {process.stderr.strip()}", style="bold red")
                return
            accuracies[seed] = Results.read(test_dir.results_json).metrics["test/acc"]
        self.study.set_test_metrics(best.number, accuracies)
