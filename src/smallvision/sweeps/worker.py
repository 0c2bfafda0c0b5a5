"""A process that runs one trial after another until none is left; only the first waits for the imports.

``python -m smallvision.sweeps.worker NAME DIRECTORY [STORAGE]`` stops at its next step when its standard input is
closed: so no worker outlives the sweep that started it.
"""

import gc
import os
import signal
import sys
import threading
import traceback
from pathlib import Path

from smallvision.config.compose import quote
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir, opened
from smallvision.core.system import STOP
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.study import Study, TrialRun

LAST_LINES = 20  # of a log or traceback, kept as the reason of a failure
INTERRUPTED = 130


def start_worker(plan: Plan, name: str) -> int:
    """Run trials in this process, which SIGTERM stops at its next step; the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which then stops its workers
    STOP.numbers = (signal.SIGTERM,)
    STOP.install()
    import smallvision.tasks.fit  # noqa: F401 - torch, before the first trial's clock starts

    gc.freeze()  # what is imported stays: no need to search it after each trial
    try:
        return run_trials(Study(plan, name))
    except Interrupted:  # stopped twice
        return INTERRUPTED


def run_trials(study: Study) -> int:
    """Run what the study has to run until nothing is left; the exit code."""
    while STOP.signal is None and (run := study.next_run()) is not None:
        print(f"\ntrial {run.number}, seed {run.seed}", flush=True)
        try:
            store(study, run, finished_results(run.directory) or run_trial(study, run))
        except Interrupted:
            study.interrupt(run)
            break
        except UserError as error:
            print(f"error: {error}", flush=True)
            study.fail(run, str(error))
        except Exception as error:  # ends this trial, not the sweep
            details = traceback.format_exc()
            print(details, flush=True)
            first_line = " ".join(f"{type(error).__name__}: {error}".split())
            study.fail(run, "\n".join([first_line, *details.splitlines()[-LAST_LINES:]]))
        gc.collect()  # Trainer, model and loader refer to each other
    return INTERRUPTED if STOP.signal is not None else 0


def run_trial(study: Study, run: TrialRun) -> Results:
    """Fit in the run's directory, from the start or from its last checkpoint."""
    from smallvision.sweeps.pruning import PruneTrial  # torch is imported in workers only
    from smallvision.tasks import fit

    is_begun = RunDir(run.directory).config_file.is_file()
    overrides = [f"resume={quote(run.directory)}"] if is_begun else study.plan.overrides(run.params, run.seed)
    config = study.plan.compose(overrides)
    run.directory.mkdir(parents=True, exist_ok=True)
    with opened(run.directory, overrides) as run_dir:
        fit.run(config, run_dir, None, callbacks=[PruneTrial(study, run)], test=not study.plan.searches)
        return Results.read(run_dir.results_json)


def finished_results(directory: Path) -> Results | None:
    """The results of a run that ended before its worker could store them."""
    try:
        results = Results.read(RunDir(directory).results_json)
    except UserError:
        return None
    return results if results.status in ("completed", "pruned") else None


def store(study: Study, run: TrialRun, results: Results) -> None:
    """Store what came of a run."""
    study.annotate(run, results.seconds.total or 0.0, results.data.stand_in_for)
    value = results.metrics[study.plan.metric]
    if results.status == "pruned":
        study.prune(run, f"{study.plan.pruner} pruner, after epoch {results.epochs}")
    elif value is None:
        study.fail(run, f"{study.plan.metric}: the run has no such metric; was it validated?")
    else:
        study.complete(run, value)


def watch_parent() -> None:
    """Wait until standard input is closed, then request the stop that a signal would request."""
    while os.read(0, 1):
        pass
    STOP.signal = STOP.signal or "end of the sweep"


def main() -> None:
    name, directory, storage = [*sys.argv[1:], None][:3]
    plan = Plan.read(Path(str(directory)), storage)
    threading.Thread(target=watch_parent, daemon=True).start()
    code = start_worker(plan, str(name))
    sys.stdout.flush()
    os._exit(code)  # without waiting for threads of libraries


if __name__ == "__main__":
    main()
