"""The study of a sweep: its trials in an Optuna storage, what each tries, and what came of it.

A process that carries out a sweep asks for trials, starts their runs and stores what they measured. In a database
several such processes share a study; a trial has an owner, and only it stores what came of the trial.
"""

import math
import os
import secrets
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import UpdateFinishedTrialError
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from smallvision.core.errors import UserError
from smallvision.core.results import Results
from smallvision.core.rng import stream_seed
from smallvision.core.run_dir import is_locked
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import grid, override_value
from smallvision.sweeps.storage import Database, open_storage
from smallvision.sweeps.trial import DIRECTORY_ID, Reason, TrialRun


@dataclass(frozen=True)
class Owner:
    """The process that carries out a trial: ``directory``: the token of its sweep directory; ``process``: its own."""

    directory: str
    host: str
    process: str

    def __str__(self) -> str:
        return f"{self.directory}/{self.host}/{self.process}"

    @classmethod
    def of(cls, trial: FrozenTrial) -> "Owner | None":
        stored = str(trial.user_attrs.get("owner", "")).split("/")
        return cls(*stored) if len(stored) == 3 else None

    @property
    def lock_file(self) -> str:
        return f".{self.process}.lock"


class Study:
    """The study of a plan, which :meth:`create` has made.

    Trials have numbers from 0, which their directories and reports show. A retry has the number of the trial that
    failed, so Optuna's own numbers may be higher.
    """

    def __init__(self, plan: Plan, storage: BaseStorage | None = None) -> None:
        self.plan = plan
        storage = storage or open_storage(plan.storage, plan.directory, plan.adopt_minutes)
        self.optuna = optuna.load_study(study_name=plan.name, storage=storage, pruner=plan.make_pruner())
        self.database = storage if isinstance(storage, Database) else None
        self.owner = Owner(self._directory_id(), os.uname().nodename, f"{os.getpid()}-{secrets.token_hex(4)}")
        self.lock = FileLock(plan.directory / self.owner.lock_file)
        self.stale = self.database.stale(self.optuna._study_id) if self.database else set()  # Optuna's trial ids
        self.beaten = -math.inf  # when the last heartbeat was recorded

    @classmethod
    def create(cls, plan: Plan) -> "Study":
        """The study of that plan: a new one, or the one created before. Raises UserError where the plan differs."""
        storage = open_storage(plan.storage, plan.directory, plan.adopt_minutes)
        direction = StudyDirection.MAXIMIZE if plan.maximize else StudyDirection.MINIMIZE
        optuna.create_study(study_name=plan.name, storage=storage, direction=direction, load_if_exists=True)
        study = cls(plan, storage)
        if study.database:
            study.lock.acquire()
            study.stale = set()  # until others have had the time to show that they are alive
        if study._attribute("definition") is None:
            study.optuna.set_user_attr("definition", plan.definition())
        study._refuse_changes(study._attribute("definition"), plan.definition())
        study.optuna.set_user_attr("count", max(plan.count, study.count))
        plan.write()
        return study

    def close(self) -> None:
        """This process has left the study."""
        if self.lock.is_locked:
            self.lock.release()
            Path(self.lock.lock_file).unlink(missing_ok=True)

    def _directory_id(self) -> str:
        """Tells this sweep directory from another machine's in the same storage."""
        file = self.plan.directory / DIRECTORY_ID
        if not file.is_file():
            token = secrets.token_hex(8)
            new = file.with_name(f".{token}")
            new.write_text(token)
            with suppress(FileExistsError):  # another process in this directory was quicker
                os.link(new, file)
            new.unlink()
        return file.read_text()

    def _refuse_changes(self, before: dict[str, object], now: dict[str, object]) -> None:
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
        count = self.count
        return {number: trial for number, trial in self._numbered() if number < count}

    def _numbered(self) -> Iterator[tuple[int, FrozenTrial]]:
        """Every attempt with its trial's number, without those that were one too many."""
        fresh = 0
        for trial in self.optuna.get_trials(deepcopy=False):
            if "number" in trial.user_attrs:
                yield int(trial.user_attrs["number"]), trial
            elif "surplus" not in trial.user_attrs:
                yield fresh, trial
                fresh += 1

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

    # Which process has which trial ---------------------------------------------------------------------

    def keep_alive(self) -> None:
        """Record in a database, from time to time, that this process is alive; which other ones are not."""
        if self.database is not None and time.monotonic() - self.beaten > self.database.beat_seconds:
            owned = [trial._trial_id for trial in self.trials.values() if self._owns(trial)]
            self.stale = self.database.beat(self.optuna._study_id, owned)
            self.beaten = time.monotonic()

    def at_work_elsewhere(self) -> dict[int, str]:
        """The hosts of trials that other processes are carrying out in a database, by number."""
        if self.database is None:
            return {}
        running = {number: trial for number, trial in self.trials.items() if trial.state == TrialState.RUNNING}
        return {
            number: owner.host
            for number, trial in running.items()
            if (owner := Owner.of(trial)) is not None and not self._owns(trial) and not self._is_free(trial)
        }

    def take(self, trial: FrozenTrial) -> bool:
        """Have this process carry out a trial if it does already, or if no living one does; of several processes that
        take a trial at once one gets it.
        """
        if self._owns(trial):
            return True
        if self.database is not None and trial._trial_id in self.stale:  # unless another process has taken it since
            self.stale = self.stale & self.database.stale(self.optuna._study_id)
        if not self._is_free(trial):
            return False
        if self.database is not None:
            return self.database.change_owner(trial._trial_id, trial.user_attrs["owner"], str(self.owner))
        self._set(trial, "owner", str(self.owner))
        return True

    def is_here(self, trial: FrozenTrial) -> bool:
        """Whether its runs are in the directory of this sweep, not in that of another machine."""
        owner = Owner.of(trial)
        return self.plan.storage is None or (owner is not None and owner.directory == self.owner.directory)

    def _owns(self, trial: FrozenTrial) -> bool:
        return bool(trial.user_attrs.get("owner") == str(self.owner))

    def _is_free(self, trial: FrozenTrial) -> bool:
        """Whether its process is known to be dead. A journal is in the hands of one process at a time."""
        owner = Owner.of(trial)
        if self.database is None:
            return self.is_here(trial)
        here = owner is not None and (owner.directory, owner.host) == (self.owner.directory, self.owner.host)
        if here and owner is not None and not is_locked(self.plan.directory, owner.lock_file):
            return True
        return trial._trial_id in self.stale

    # What comes next ------------------------------------------------------------------------------------

    def next_run(self, running: Iterable[TrialRun]) -> TrialRun | None:
        """A run that was interrupted, another seed of a trial, or the first seed of a new one; None where none is left
        to start beside those that are ``running``.
        """
        busy: dict[int, set[int]] = {}
        for run in running:
            busy.setdefault(run.number, set()).add(run.seed)
        for number, trial in self._unfinished():
            seeds = [seed for seed in self.open_seeds(trial) if seed not in busy.get(number, ())]
            if seeds and not (self.plan.seeds_in_sequence and number in busy):
                return self._run(number, self._sample(number, trial), seeds[0])
            if not self.open_seeds(trial):  # a killed process could not end it
                self._complete(trial)
        started = self._start_trial()
        return self._run(*started, self.open_seeds(started[1])[0]) if started else None

    def retry_failed(self) -> int:
        """Enqueue every trial that failed once more, under its own number; returns how many."""
        failed = [(number, trial) for number, trial in self.trials.items() if trial.state == TrialState.FAIL]
        if self.database is not None:  # another process may be doing the same
            change, now = self.database.change_owner, str(self.owner)
            failed = [pair for pair in failed if change(pair[1]._trial_id, pair[1].user_attrs["owner"], now)]
        for number, trial in failed:
            values = {name: value for name, value in trial.user_attrs.items() if name.startswith("value/")}
            self.optuna.enqueue_trial(trial.params, user_attrs={"number": number, "owner": "", **values})
        return len(failed)

    def open_seeds(self, trial: FrozenTrial) -> list[int]:
        """Seeds whose runs have not ended."""
        return [seed for seed in self.plan.seeds if f"value/{seed}" not in trial.user_attrs]

    def _unfinished(self) -> Iterator[tuple[int, FrozenTrial]]:
        """Trials that have begun and not ended, of this process or taken from dead ones: one at a time, when asked."""
        for number, trial in self.trials.items():
            if trial.state == TrialState.RUNNING and self.take(trial):
                yield number, trial

    def _start_trial(self) -> tuple[int, FrozenTrial] | None:
        """A new trial with its values; None where there is none left to start.

        The storage numbers it, so of several processes that ask at once each gets another; what it tries follows from
        the number.
        """
        while True:
            attempts = list(self._numbered())
            retried = next((trial for _, trial in attempts if trial.state == TrialState.WAITING), None)
            if retried is not None:
                if not self._begin(retried):  # another process was quicker
                    continue
                asked = retried.number
            elif sum("number" not in trial.user_attrs for _, trial in attempts) >= self.count:
                return None
            else:
                asked = self._new_trial()
            number, trial = next(pair for pair in self._numbered() if pair[1].number == asked)
            if number >= self.count:  # another process was quicker
                self._set(trial, "surplus", True)
                self.optuna.tell(asked, state=TrialState.FAIL)
                continue
            trial = self._sample(number, trial)
            duplicate = self._duplicate(trial)
            if duplicate is None:
                return number, trial
            earlier, other = duplicate
            for name, value in other.user_attrs.items():
                if name.startswith("value/"):
                    self._set(trial, name, value)
            self._set(trial, "same_as", earlier)
            self.optuna.tell(asked, other.value)

    def _new_trial(self) -> int:
        """A trial that this process owns from the first; Optuna's number of it."""
        template = create_trial(state=TrialState.RUNNING, user_attrs={"owner": str(self.owner)})
        storage = self.optuna._storage
        return storage.get_trial_number_from_id(storage.create_new_trial(self.optuna._study_id, template))

    def _begin(self, retried: FrozenTrial) -> bool:
        """Begin a trial that waits; whether no other process has."""
        try:
            begun = self.optuna._storage.set_trial_state_values(retried._trial_id, TrialState.RUNNING)
        except UpdateFinishedTrialError:
            return False
        if begun:
            self._set(retried, "owner", str(self.owner))
        return begun

    def _sample(self, number: int, trial: FrozenTrial) -> FrozenTrial:
        """The trial with its values; those that a killed process had not sampled yet are sampled now."""
        if len(trial.params) < len(self.plan.dimensions):
            if self.plan.method == "grid":  # the combination of that number, as Optuna keeps that of an enqueued trial
                combination = grid(self.plan.dimensions)[number]
                self.optuna._storage.set_trial_system_attr(trial._trial_id, "fixed_params", combination)
            self.optuna.sampler = self._sampler(number)
            live = Trial(self.optuna, trial._trial_id)
            for dimension in self.plan.dimensions:
                live._suggest(dimension.key, dimension.distribution)
        return self._attempt(trial.number)

    def _sampler(self, number: int) -> BaseSampler:
        """Samples the same values for that number, whatever was sampled before; tpe also looks at what is complete."""
        seed = stream_seed(self.plan.sampler_seed, "sampler", number) % 2**32
        return TPESampler(multivariate=True, seed=seed) if self.plan.method == "tpe" else RandomSampler(seed=seed)

    def _duplicate(self, trial: FrozenTrial) -> tuple[int, FrozenTrial] | None:
        """A completed trial with the same values: running this one would give the same metrics."""
        if self.plan.method == "grid" or "number" in trial.user_attrs:
            return None
        done = (pair for pair in self.trials.items() if pair[1].state == TrialState.COMPLETE)
        return next((pair for pair in done if pair[1].params == trial.params), None)

    def _run(self, number: int, trial: FrozenTrial, seed: int) -> TrialRun:
        params = {name: override_value(value) for name, value in trial.params.items()}
        return self.plan.run(number, params, seed)

    # What came of a run ---------------------------------------------------------------------------------

    def report(self, run: TrialRun, values: dict[int, float]) -> bool:
        """Store the metric by epoch, where it is not stored yet; whether the run should end here."""
        trial = self.trials[run.number]
        if not self._owns(trial):  # another process has adopted it
            return False
        if trial.state != TrialState.RUNNING:  # another seed has ended it
            return True
        if self.plan.pruner in ("none", "wilcoxon"):  # that one compares whole runs, seed by seed
            return False
        offset = self.plan.seeds.index(run.seed) * self.plan.epochs
        live = self._live(trial)
        for epoch, value in values.items():
            if offset + epoch not in trial.intermediate_values:
                live.report(value, offset + epoch)
        return live.should_prune()

    def store(self, run: TrialRun, results: Results) -> None:
        """Store the results of a run that has ended; with its last seed the trial ends."""
        trial, value = self.trials[run.number], results.metrics.get(self.plan.metric)
        if results.data.stand_in_for is not None:
            self.optuna.set_user_attr("stand_in_for", results.data.stand_in_for)
        if trial.state != TrialState.RUNNING or not self._owns(trial):
            return
        self._set(trial, f"seconds/{run.seed}", results.seconds.total or 0.0)
        if results.cut_short is not None:
            self._set(trial, "cut_short", results.cut_short)
        if results.status == "pruned":
            self._end(trial, TrialState.PRUNED, f"{self.plan.pruner} pruner, after epoch {results.epochs}")
        elif value is None:
            self.fail(run, Reason(f"{self.plan.metric}: not measured in validation, NaN or infinite", refused=True))
        else:
            self._set(trial, f"value/{run.seed}", value)
            self._end_seed(run, self._attempt(trial.number), value)

    def _end_seed(self, run: TrialRun, trial: FrozenTrial, value: float) -> None:
        live = self._live(trial)
        if self.plan.pruner == "wilcoxon":
            live.report(value, self.plan.seeds.index(run.seed))
        if not self.open_seeds(trial):
            self._complete(trial)
        elif self.plan.pruner != "none" and live.should_prune():
            self._end(trial, TrialState.PRUNED, f"no more seeds after {run.seed}: clearly worse than others")

    def fail(self, run: TrialRun, reason: Reason) -> None:
        """End a run's trial as failed."""
        trial = self.trials[run.number]
        if trial.state == TrialState.RUNNING and self._owns(trial):
            self._set(trial, "refused", reason.refused)
            self._end(trial, TrialState.FAIL, reason.text)

    def _complete(self, trial: FrozenTrial) -> None:
        """End a trial whose seeds are all done: its value is their mean."""
        self.optuna.tell(trial.number, fmean(trial.user_attrs[f"value/{seed}"] for seed in self.plan.seeds))

    def _end(self, trial: FrozenTrial, state: TrialState, reason: str) -> None:
        self._set(trial, "reason", reason)
        self.optuna.tell(trial.number, state=state)

    def _live(self, trial: FrozenTrial) -> Trial:
        self.optuna.sampler = RandomSampler()  # nothing is sampled, which TPE would do here
        return Trial(self.optuna, trial._trial_id)

    def _attempt(self, optuna_number: int) -> FrozenTrial:
        return self.optuna.get_trials(deepcopy=False)[optuna_number]

    def _set(self, trial: FrozenTrial, name: str, value: object) -> None:
        self.optuna._storage.set_trial_user_attr(trial._trial_id, name, value)


def _as_typed(value: object) -> str:
    return "not set" if value is None else ",".join(map(str, value)) if isinstance(value, list) else str(value)
