"""The study of a sweep: its trials in an Optuna storage, and which run comes next."""

import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import DuplicatedStudyError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from smallvision.core.errors import Pruned, UserError
from smallvision.core.rng import stream_seed
from smallvision.core.run_dir import clear_scratch
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import grid, override_value

JOURNAL = "store.journal"
CREATION_SECONDS = 60.0  # after which a study that another machine has not finished creating was left by a killed one
CLAIM_SECONDS = 60.0  # the same for a trial that no directory has claimed

optuna.logging.set_verbosity(optuna.logging.ERROR)


class JournalLock(JournalFileOpenLock):
    """A lock that the kernel releases when its holder dies, and the repair of what that holder left.

    Optuna's own locks outlive a killed process by half a minute, and an incomplete last line (a kill, a full disk)
    would spoil the next one.
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


def open_storage(address: str | None, directory: Path) -> BaseStorage:
    """The storage of a sweep. Raises UserError, naming the key, where it cannot be opened."""
    if address is None or "://" not in address:
        journal = Path(address) if address else directory / JOURNAL
        try:
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalLock(journal)))
        except OSError as error:
            raise UserError(f"sweep.storage={journal}: {error.strerror}") from None
        except ValueError:
            raise UserError(f"sweep.storage={journal}: not the journal of a sweep, or damaged") from None
    if address.startswith("redis"):  # Optuna unpickles what it finds there
        raise UserError("sweep.storage: redis is not supported; use a file, or a database such as postgresql")
    try:
        return RDBStorage(address)
    except Exception as error:  # every database driver has its own
        raise UserError(f"sweep.storage={address}: {str(error).splitlines()[0]}") from None


def number_of(trial: FrozenTrial) -> int:
    """A trial's number; of a retry, that of the trial that failed."""
    return int(trial.user_attrs.get("number", trial.number))


@dataclass(frozen=True)
class TrialRun:
    """One seed of a trial, which no other process runs while ``lock`` is held.

    ``params``: the sampled values by override key, as typed; ``directory``: of the run.
    """

    trial: Trial
    number: int
    seed: int
    params: dict[str, str]
    directory: Path
    lock: FileLock


class Study:
    """The study of a plan, which :meth:`create` has made. ``worker``: the name of the process that runs its trials."""

    def __init__(self, plan: Plan, worker: str = "sweep") -> None:
        self.plan, self.worker = plan, worker
        storage = open_storage(plan.storage, plan.directory)
        self.optuna = optuna.load_study(study_name=plan.name, storage=storage, pruner=plan.make_pruner())
        self._lock = FileLock(plan.directory / ".lock")

    @classmethod
    def create(cls, plan: Plan) -> "Study":
        """The study of that plan: a new one, or the one created before. The trials of a grid wait in it.

        Raises UserError where the one created before has another definition.
        """
        storage = open_storage(plan.storage, plan.directory)
        with FileLock(plan.directory / ".lock"):
            (plan.directory / ".claims").mkdir(exist_ok=True)
            token = plan.directory / ".directory_id"
            if not token.is_file():
                token.write_text(secrets.token_hex(8))
            try:
                direction = StudyDirection.MAXIMIZE if plan.maximize else StudyDirection.MINIMIZE
                optuna.create_study(study_name=plan.name, storage=storage, direction=direction)
                study = cls(plan)
            except DuplicatedStudyError:
                study = cls(plan)
                study._wait_until_ready()
            study._prepare()
        return study

    def _wait_until_ready(self) -> None:
        """In a shared storage another machine may just be creating the study."""
        given_up = time.monotonic() + CREATION_SECONDS
        while self.plan.storage is not None and not self._attribute("ready") and time.monotonic() < given_up:
            time.sleep(0.1)

    def _prepare(self) -> None:
        """Write down what is not there yet, after a kill perhaps only the rest of it."""
        if self._attribute("definition") is None:
            self.optuna.set_user_attr("definition", self.plan.definition())
        self._refuse_changes(self._attribute("definition"), self.plan.definition())
        if self.plan.method == "grid" and not self._attribute("ready"):
            for params in grid(self.plan.dimensions)[len(self._trials()) :]:
                self.optuna.enqueue_trial(params)
        self.optuna.set_user_attr("count", max(self.plan.count, self.count))
        self.optuna.set_user_attr("ready", True)
        self.plan.write()

    def _refuse_changes(self, before: dict[str, Any], now: dict[str, Any]) -> None:
        for name in [*before, *now]:
            if before.get(name) != now.get(name):
                was, is_now = (_as_typed(definition.get(name)) for definition in (before, now))
                raise UserError(
                    f"sweep {self.plan.name}: {name} was {was} and is now {is_now}; go on with what it was, or"
                    " start another sweep: sweep.name=NAME"
                )

    # What is stored -------------------------------------------------------------------------------------

    @property
    def count(self) -> int:
        """How many trials there will be."""
        return int(self._attribute("count") or self.plan.count)

    @property
    def trials(self) -> dict[int, FrozenTrial]:
        """The trials by number; of one that was retried, the last attempt."""
        return {number_of(trial): trial for trial in self._trials()}

    @property
    def stand_in_for(self) -> str | None:
        """The data set that was asked for, where a stand-in replaced it."""
        name: str | None = self._attribute("stand_in_for")
        return name

    @property
    def test_metrics(self) -> tuple[int, dict[int, float]] | None:
        """The trial that was tested, and its test/acc by seed; None before any was."""
        stored = self._attribute("test")
        return (stored["trial"], {int(seed): value for seed, value in stored["acc"].items()}) if stored else None

    def set_test_metrics(self, number: int, accuracies: dict[int, float | None]) -> None:
        by_seed = {str(seed): value for seed, value in accuracies.items()}
        self.optuna.set_user_attr("test", {"trial": number, "acc": by_seed})

    def _attribute(self, name: str) -> Any:
        return self.optuna.user_attrs.get(name)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False, states=states or None)

    @cached_property
    def _directory_id(self) -> str:
        """Tells this sweep directory from another machine's in the same storage."""
        return (self.plan.directory / ".directory_id").read_text()

    # What comes next ------------------------------------------------------------------------------------

    def next_run(self) -> TrialRun | None:
        """An interrupted run, another seed of a trial, or the first seed of a new one; None where none is left."""
        with self._lock:
            for trial in self._unfinished():
                if not self._open_seeds(trial):  # killed between its last value and its end
                    self._complete(trial)
                elif (run := self._claim(trial)) is not None:
                    return run
            while (started := self._start_trial()) is not None:
                if (run := self._claim(started)) is not None:
                    return run
        return None

    def retry_failed(self) -> int:
        """Enqueue every trial that failed once more, under its own number; returns how many."""
        failed = [trial for trial in self.trials.values() if trial.state == TrialState.FAIL]
        for trial in failed:
            values = {name: value for name, value in trial.user_attrs.items() if name.startswith("value/")}
            self.optuna.enqueue_trial(trial.params, user_attrs={"number": number_of(trial), **values})
        return len(failed)

    def unclaimed(self) -> set[int]:
        """Numbers of this directory's trials that count as running but that no process runs."""
        claims = self.plan.directory / ".claims"
        if not claims.is_dir():  # the sweep ran on another machine
            return set()
        with self._lock:  # no run is claimed meanwhile
            running = [number_of(trial) for trial in self._unfinished()]
            return {
                number
                for number in running
                if not any(
                    _is_locked(claims / f"{self.plan.run_dir(number, seed).name}.lock") for seed in self.plan.seeds
                )
            }

    def _unfinished(self) -> list[FrozenTrial]:
        return [trial for trial in self._trials(TrialState.RUNNING) if self._is_ours(trial)]

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Whether its runs lie in this directory, or in none yet."""
        owner = trial.user_attrs.get("directory_id")
        if owner is not None or self.plan.storage is None:
            return owner in (None, self._directory_id)
        started = trial.datetime_start
        return started is not None and datetime.now() - started > timedelta(seconds=CLAIM_SECONDS)

    def _start_trial(self) -> FrozenTrial | None:
        """A new trial with its values; None where there is none left to start."""
        while True:
            trials = self._trials()
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            started = sum("number" not in trial.user_attrs for trial in trials)
            if not waiting and (self.plan.method == "grid" or started >= self.count):
                return None
            self.optuna.sampler = self._sampler(len(trials))
            trial = self.optuna.ask()
            trial.set_user_attr("directory_id", self._directory_id)
            params = self._sample(trial)
            duplicate = self._duplicate(trial, params, trials)
            if duplicate is None:
                return self._frozen(trial.number)
            for name, value in duplicate.user_attrs.items():
                if name.startswith("value/"):
                    trial.set_user_attr(name, value)
            trial.set_user_attr("same_as", number_of(duplicate))
            self.optuna.tell(trial, duplicate.value)

    def _sample(self, trial: Trial) -> dict[str, Any]:
        """Its values; those that a killed process had not sampled yet are sampled now."""
        return {
            dimension.key: trial._suggest(dimension.key, dimension.distribution) for dimension in self.plan.dimensions
        }

    def _duplicate(self, trial: Trial, params: dict[str, Any], others: list[FrozenTrial]) -> FrozenTrial | None:
        """A completed trial with the same values: running this one would give the same metrics."""
        if self.plan.method == "grid" or "number" in trial.user_attrs:
            return None
        return next((one for one in others if one.state == TrialState.COMPLETE and one.params == params), None)

    def _claim(self, trial: FrozenTrial) -> TrialRun | None:
        number = number_of(trial)
        for seed in self._open_seeds(trial):
            directory = self.plan.run_dir(number, seed)
            lock = FileLock(self.plan.directory / ".claims" / f"{directory.name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                if self.plan.seeds_in_sequence:
                    return None
                continue
            is_sampled = len(trial.params) == len(self.plan.dimensions)
            self.optuna.sampler = RandomSampler() if is_sampled else self._sampler(trial.number)
            live = Trial(self.optuna, trial._trial_id)
            params = trial.params if is_sampled else self._sample(live)
            live.set_user_attr("directory_id", self._directory_id)
            live.set_user_attr(f"worker/{seed}", self.worker)
            typed = {name: override_value(value) for name, value in params.items()}
            return TrialRun(live, number, seed, typed, directory, lock)
        return None

    def _complete(self, trial: FrozenTrial) -> None:
        """End a trial whose seeds are all done: its value is their mean."""
        self.optuna.tell(trial.number, fmean(trial.user_attrs[f"value/{seed}"] for seed in self.plan.seeds))

    def _open_seeds(self, trial: FrozenTrial) -> list[int]:
        return [seed for seed in self.plan.seeds if f"value/{seed}" not in trial.user_attrs]

    def _sampler(self, number: int) -> BaseSampler:
        """Samples the same values for that number, whatever this process or another sampled before."""
        seed = stream_seed(self.plan.sampler_seed, "sampler", number) % 2**32
        if self.plan.method == "tpe":
            return TPESampler(multivariate=True, seed=seed)
        return RandomSampler(seed=seed)

    # What came of a run ---------------------------------------------------------------------------------

    def annotate(self, run: TrialRun, seconds: float, stand_in_for: str | None) -> None:
        """Store how long a run took, and the data set that a stand-in replaced in it."""
        if self._is_running(run):
            run.trial.set_user_attr(f"seconds/{run.seed}", seconds)
        if stand_in_for is not None:
            self.optuna.set_user_attr("stand_in_for", stand_in_for)

    def report(self, run: TrialRun, values: Iterable[tuple[int, float]]) -> None:
        """Store the metric by epoch, where it is not stored yet. Raises Pruned where the run should end."""
        if not self._is_running(run):
            raise Pruned("another seed has ended this trial")
        if self.plan.pruner == "wilcoxon":  # it compares whole runs, seed by seed
            return
        offset = self.plan.seeds.index(run.seed) * self.plan.epochs
        stored = self._frozen(run.trial.number).intermediate_values
        for epoch, value in values:
            if offset + epoch not in stored:
                run.trial.report(value, offset + epoch)
        if self._should_prune(run):
            raise Pruned(f"{self.plan.pruner} pruner")

    def complete(self, run: TrialRun, value: float) -> None:
        """Store a run's value; with the last seed the trial is complete."""
        with self._lock:
            if self._is_running(run):
                run.trial.set_user_attr(f"value/{run.seed}", value)
                if self.plan.pruner == "wilcoxon":
                    run.trial.report(value, self.plan.seeds.index(run.seed))
                trial = self._frozen(run.trial.number)
                if not self._open_seeds(trial):
                    self._complete(trial)
                elif self._should_prune(run):
                    reason = f"no more seeds after {run.seed}: clearly worse than others"
                    self._end(trial, TrialState.PRUNED, reason)
            self._release(run)

    def prune(self, run: TrialRun, reason: str) -> None:
        """End a run's trial as pruned."""
        self._end_run(run, TrialState.PRUNED, reason)

    def fail(self, run: TrialRun, reason: str) -> None:
        """End a run's trial as failed. ``reason``: a first line that is enough by itself, and details below."""
        self._end_run(run, TrialState.FAIL, reason)

    def _end_run(self, run: TrialRun, state: TrialState, reason: str) -> None:
        with self._lock:
            if self._is_running(run):
                self._end(self._frozen(run.trial.number), state, reason)
            self._release(run)

    def interrupt(self, run: TrialRun) -> None:
        """Leave a run to whoever continues it."""
        run.lock.release()

    def abandon(self, worker: str, reason: str) -> list[int]:
        """End the trials of a worker that died as failed; returns their numbers."""
        lost = []
        with self._lock:
            for trial in self._unfinished():
                for seed in self._open_seeds(trial):
                    if trial.user_attrs.get(f"worker/{seed}") == worker:
                        self._end(trial, TrialState.FAIL, reason)
                        clear_scratch(self.plan.run_dir(number_of(trial), seed))  # nobody continues it
                        lost.append(number_of(trial))
                        break
        return lost

    def _should_prune(self, run: TrialRun) -> bool:
        return self.plan.pruner != "none" and run.trial.should_prune()

    def _is_running(self, run: TrialRun) -> bool:
        """Whether no other seed has ended the trial."""
        return self._frozen(run.trial.number).state == TrialState.RUNNING

    def _frozen(self, number: int) -> FrozenTrial:
        return self._trials()[number]

    def _end(self, trial: FrozenTrial, state: TrialState, reason: str) -> None:
        self.optuna._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
        self.optuna.tell(trial.number, state=state)

    def _release(self, run: TrialRun) -> None:
        Path(run.lock.lock_file).unlink(missing_ok=True)  # nobody claims a run without self._lock
        run.lock.release()


def _is_locked(file: Path) -> bool:
    if not file.is_file():
        return False
    try:
        with FileLock(file, timeout=0):
            return False
    except Timeout:
        return True


def _as_typed(value: Any) -> str:
    return "not set" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
