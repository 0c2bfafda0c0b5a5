"""Where trials are kept: an Optuna study in a journal file of the sweep, or at a database's address."""

import os
import time
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from smallvision.errors import Refusal
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import grid

JOURNAL = "store.journal"
WAIT_SECONDS = 60.0  # for another machine that is writing the plan down

optuna.logging.set_verbosity(optuna.logging.ERROR)


class KernelLock(JournalFileOpenLock):
    """A lock that the kernel takes back when its holder dies, and the mend of what that one left.

    Optuna's own locks stay behind a killed process, for half a minute, and a line cut short in a full disk
    or a kill would spoil the next one.
    """

    def __init__(self, journal: Path) -> None:
        self.journal, self.lock = journal, FileLock(f"{journal}.lock")

    def acquire(self) -> bool:
        self.lock.acquire()
        with self.journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
        return True

    def release(self) -> None:
        self.lock.release()


def open_storage(address: str | None, directory: Path) -> Any:
    """The storage of a sweep. Raises Refusal, naming the key, where it cannot be opened."""
    if address is None or "://" not in address:
        journal = Path(address) if address else directory / JOURNAL
        try:
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=KernelLock(journal)))
        except OSError as error:
            raise Refusal(f"sweep.storage={journal}: {error.strerror}") from None
        except ValueError:
            raise Refusal(f"sweep.storage={journal}: not the journal of a sweep, or damaged") from None
    if address.startswith("redis"):  # Optuna unpickles what it finds there
        raise Refusal("sweep.storage: redis is not supported; use a file, or a database such as postgresql")
    try:
        return RDBStorage(address)
    except Exception as error:  # each driver has its own kinds
        raise Refusal(f"sweep.storage={address}: {str(error).splitlines()[0]}") from None


def open_study(plan: Plan, address: str | None = None) -> optuna.Study:
    """The study that is there already."""
    storage = open_storage(address or plan.storage, plan.directory)
    return optuna.load_study(study_name=plan.name, storage=storage, pruner=plan.make_pruner())


def begin(plan: Plan) -> optuna.Study:
    """The study of that plan: a new one, with the trials of a grid waiting in it, or the one begun before.

    Raises Refusal where that one is of another definition.
    """
    storage = open_storage(plan.storage, plan.directory)
    with FileLock(plan.directory / ".lock"):
        try:
            study = optuna.create_study(
                study_name=plan.name, storage=storage, direction="maximize" if plan.maximize else "minimize"
            )
            study.set_user_attr("definition", plan.definition())
            study.set_user_attr("plan", plan.to_json())
        except DuplicatedStudyError:
            study = optuna.load_study(study_name=plan.name, storage=storage)
            _refuse_changes(plan, study)
        if plan.method == "grid" and not study.user_attrs.get("ready"):
            combinations = grid(plan.dimensions)
            for params in combinations[len(study.get_trials(deepcopy=False)) :]:
                study.enqueue_trial(params)
        study.set_user_attr("count", max(plan.count, study.user_attrs.get("count", 0)))
        study.set_user_attr("ready", True)
    return study


def retry_failed(study: optuna.Study) -> int:
    """Let every trial that failed wait once more, under its own number; says how many."""
    latest = latest_attempts(study)
    failed = [trial for trial in latest.values() if trial.state == optuna.trial.TrialState.FAIL]
    for trial in failed:
        values = {name: value for name, value in trial.user_attrs.items() if name.startswith("value/")}
        study.enqueue_trial(trial.params, user_attrs={"number": number_of(trial), **values})
    return len(failed)


def number_of(trial: Any) -> int:
    """The number of its configuration: its own, or that of the trial which it tries again."""
    return int(trial.user_attrs.get("number", trial.number))


def latest_attempts(study: optuna.Study) -> dict[int, optuna.trial.FrozenTrial]:
    """By number; of those tried again, the last."""
    return {number_of(trial): trial for trial in study.get_trials(deepcopy=False)}


def _refuse_changes(plan: Plan, study: optuna.Study) -> None:
    waited = time.monotonic() + WAIT_SECONDS
    while "definition" not in study.user_attrs:  # another machine has only begun, or was killed then
        if time.monotonic() > waited or plan.storage is None:
            study.set_user_attr("definition", plan.definition())
            study.set_user_attr("plan", plan.to_json())
        time.sleep(0.1)
    before, now = study.user_attrs["definition"], plan.definition()
    for name in [*before, *now]:
        if before.get(name) != now.get(name):
            was, is_now = (_shown(one.get(name)) for one in (before, now))
            raise Refusal(
                f"sweep {plan.name}: {name} was {was} and is now {is_now}; go on with what it was, or"
                " begin another sweep: sweep.name=NAME"
            )


def _shown(value: Any) -> str:
    return (
        "not set" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
    )
