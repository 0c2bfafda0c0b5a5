"""Where trials are kept: an Optuna study in a journal file of the sweep, or at a database's address."""

import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.exceptions import DuplicatedStudyError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from smallvision.core.errors import Pruned, UserError
from smallvision.core.rng import key
from smallvision.core.run_dir import clear_scratch
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import grid, written

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
    """The storage of a sweep. Raises UserError, naming the key, where it cannot be opened."""
    if address is None or "://" not in address:
        journal = Path(address) if address else directory / JOURNAL
        try:
            return JournalStorage(JournalFileBackend(str(journal), lock_obj=KernelLock(journal)))
        except OSError as error:
            raise UserError(f"sweep.storage={journal}: {error.strerror}") from None
        except ValueError:
            raise UserError(f"sweep.storage={journal}: not the journal of a sweep, or damaged") from None
    if address.startswith("redis"):  # Optuna unpickles what it finds there
        raise UserError("sweep.storage: redis is not supported; use a file, or a database such as postgresql")
    try:
        return RDBStorage(address)
    except Exception as error:  # each driver has its own kinds
        raise UserError(f"sweep.storage={address}: {str(error).splitlines()[0]}") from None


def open_study(plan: Plan, address: str | None = None) -> optuna.Study:
    """The study that is there already."""
    storage = open_storage(address or plan.storage, plan.directory)
    return optuna.load_study(study_name=plan.name, storage=storage, pruner=plan.make_pruner())


def begin(plan: Plan) -> optuna.Study:
    """The study of that plan: a new one, with the trials of a grid waiting in it, or the one begun before.

    Raises UserError where that one is of another definition.
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
            raise UserError(
                f"sweep {plan.name}: {name} was {was} and is now {is_now}; go on with what it was, or"
                " begin another sweep: sweep.name=NAME"
            )


def _shown(value: Any) -> str:
    return "not set" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)


UNCLAIMED = timedelta(seconds=60)  # after which a shared store's trial without an owner was left by a killed one


@dataclass
class Claim:
    """One run that this process has to itself. ``trial``: its configuration, to be told figures."""

    trial: Trial
    number: int
    seed: int
    params: dict[str, str]
    directory: Path
    lock: FileLock


class Queue:
    """The runs of a sweep, for one worker. ``worker``: its name, kept with what it claims."""

    def __init__(self, plan: Plan, worker: str) -> None:
        self.plan, self.worker = plan, worker
        self.study = open_study(plan)
        self.sampler = self.study.sampler
        self.lock = FileLock(plan.directory / ".lock")
        self.claims = plan.directory / ".claims"
        with self.lock:
            self.claims.mkdir(exist_ok=True)
            place = plan.directory / ".place"  # tells this directory from another machine's
            if not place.is_file():
                place.write_text(secrets.token_hex(8))
            self.place = place.read_text()

    # What comes next ------------------------------------------------------------------------------------

    def next(self) -> Claim | None:
        """The next run: one that was cut short, another seed of a configuration, or a new one."""
        with self.lock:
            for trial in self._unfinished():
                if not self._open_seeds(trial):  # killed between its last figure and its end
                    self._complete(trial)
                elif (claim := self._claim(trial)) is not None:
                    return claim
            while (begun := self._begin()) is not None:
                if (claim := self._claim(begun)) is not None:
                    return claim
        return None

    def _unfinished(self) -> list[FrozenTrial]:
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [trial for trial in running if self._is_ours(trial)]

    def _is_ours(self, trial: FrozenTrial) -> bool:
        place = trial.user_attrs.get("place")
        if place is not None or self.plan.storage is None:
            return place in (None, self.place)
        return trial.datetime_start is not None and datetime.now() - trial.datetime_start > UNCLAIMED

    def _begin(self) -> FrozenTrial | None:
        """A configuration that nobody has begun, with its values; None where there is none left."""
        while True:
            trials = self.study.get_trials(deepcopy=False)
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            begun = sum("number" not in trial.user_attrs for trial in trials)
            if not waiting and (self.plan.method == "grid" or begun >= self._count()):
                return None
            self.study.sampler = self._sampler(len(trials))
            asked = self.study.ask()
            asked.set_user_attr("place", self.place)
            params = self._draw(asked)
            twin = self._twin(asked, params, trials)
            if twin is None:
                return self._frozen(asked.number)
            for name, value in twin.user_attrs.items():
                if name.startswith(("value/", "stand_in")):
                    asked.set_user_attr(name, value)
            asked.set_user_attr("same_as", number_of(twin))
            self.study.tell(asked, twin.value)

    def _count(self) -> int:
        return int(self.study.user_attrs.get("count", self.plan.count))

    def _draw(self, trial: Trial) -> dict[str, Any]:
        """Its values; those that a killed process had not drawn yet are drawn now."""
        return {one.key: trial._suggest(one.key, one.distribution) for one in self.plan.dimensions}

    def _twin(self, asked: Trial, params: dict[str, Any], trials: list[FrozenTrial]) -> FrozenTrial | None:
        """A trial that has come to its end with the same values: it would give the same figures."""
        if self.plan.method == "grid" or "number" in asked.user_attrs:
            return None
        same = (one for one in trials if one.state == TrialState.COMPLETE and one.params == params)
        return next(same, None)

    def _claim(self, trial: FrozenTrial) -> Claim | None:
        number = number_of(trial)
        for seed in self._open_seeds(trial):
            directory = self.plan.run_dir(number, seed)
            lock = FileLock(self.claims / f"{directory.name}.lock", timeout=0)
            try:
                lock.acquire()
            except Timeout:
                if self.plan.one_after_another:
                    return None
                continue
            complete = len(trial.params) == len(self.plan.dimensions)
            self.study.sampler = RandomSampler() if complete else self._sampler(trial.number)
            live = Trial(self.study, trial._trial_id)
            params = trial.params if complete else self._draw(live)
            live.set_user_attr("place", self.place)
            live.set_user_attr(f"worker/{seed}", self.worker)
            typed = {name: written(value) for name, value in params.items()}
            return Claim(live, number, seed, typed, directory, lock)
        return None

    def _complete(self, trial: FrozenTrial) -> None:
        """All its seeds have come to their end: its value is their mean."""
        values = [trial.user_attrs[f"value/{seed}"] for seed in self.plan.seeds]
        self.study.tell(trial.number, fmean(values))

    def _open_seeds(self, trial: FrozenTrial) -> list[int]:
        return [seed for seed in self.plan.seeds if f"value/{seed}" not in trial.user_attrs]

    def _sampler(self, number: int) -> BaseSampler:
        """Drawing the same for that number, whatever was drawn before by this process or another."""
        seed = key(self.plan.sampler_seed, "sampler", number) % 2**32
        if self.plan.method == "tpe":
            return TPESampler(multivariate=True, seed=seed)
        return RandomSampler(seed=seed)

    # What came of it ------------------------------------------------------------------------------------

    def done(self, claim: Claim, value: float, **more: Any) -> None:
        """That run's figure; with its last seed, the configuration's: the mean."""
        with self.lock:
            if self._is_open(claim):
                claim.trial.set_user_attr(f"value/{claim.seed}", value)
                self._note(claim, more)
                if self.plan.pruner == "wilcoxon":
                    claim.trial.report(value, self.plan.seeds.index(claim.seed))
                trial = self._frozen(claim.trial.number)
                if not self._open_seeds(trial):
                    self._complete(trial)
                elif self.should_prune(claim):
                    reason = f"no more seeds after {claim.seed}: clearly worse than others"
                    self._end(claim, TrialState.PRUNED, reason)
            self._release(claim)

    def pruned(self, claim: Claim, reason: str, **more: Any) -> None:
        with self.lock:
            if self._is_open(claim):
                self._note(claim, more)
                self._end(claim, TrialState.PRUNED, reason)
            self._release(claim)

    def failed(self, claim: Claim, reason: str) -> None:
        """``reason``: the short of it in the first line, more below."""
        with self.lock:
            if self._is_open(claim):
                self._end(claim, TrialState.FAIL, reason)
            self._release(claim)

    def put_back(self, claim: Claim) -> None:
        """The run was interrupted; whoever comes next continues it."""
        claim.lock.release()

    def abandon(self, worker: str, reason: str) -> list[int]:
        """Record what a worker that died was at as failed; gives those trials' numbers."""
        lost = []
        with self.lock:
            for trial in self._unfinished():
                for seed in self._open_seeds(trial):
                    if trial.user_attrs.get(f"worker/{seed}") == worker:
                        self.study._storage.set_trial_user_attr(trial._trial_id, "reason", reason)
                        self.study.tell(trial.number, state=TrialState.FAIL)
                        clear_scratch(self.plan.run_dir(number_of(trial), seed))  # nobody continues it
                        lost.append(number_of(trial))
                        break
        return lost

    def should_prune(self, claim: Claim) -> bool:
        return self.plan.pruner != "none" and claim.trial.should_prune()

    def report(self, claim: Claim, figures: Iterable[tuple[int, float]]) -> None:
        """The metric after each epoch, of those that the store does not have yet.

        Raises Pruned where the run is not worth going on with.
        """
        if not self._is_open(claim):
            raise Pruned("another seed has ended this configuration")
        if self.plan.pruner == "wilcoxon":  # it compares whole runs, seed by seed
            return
        first = self.plan.seeds.index(claim.seed) * self.plan.epochs
        known = self._frozen(claim.trial.number).intermediate_values
        for epoch, value in figures:
            if first + epoch not in known:
                claim.trial.report(value, first + epoch)
        if self.should_prune(claim):
            raise Pruned(f"{self.plan.pruner} pruner")

    def _is_open(self, claim: Claim) -> bool:
        """Whether no other seed of it has ended the configuration."""
        return self._frozen(claim.trial.number).state == TrialState.RUNNING

    def _frozen(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _note(self, claim: Claim, more: dict[str, Any]) -> None:
        for name, value in more.items():
            if value is not None:
                claim.trial.set_user_attr(f"{name}/{claim.seed}", value)

    def _end(self, claim: Claim, state: TrialState, reason: str) -> None:
        claim.trial.set_user_attr("reason", reason)
        self.study.tell(claim.trial, state=state)

    def _release(self, claim: Claim) -> None:
        Path(claim.lock.lock_file).unlink(missing_ok=True)  # nobody claims without self.lock
        claim.lock.release()
