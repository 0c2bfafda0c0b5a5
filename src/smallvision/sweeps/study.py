"""The study of a sweep: its trials in an Optuna storage, what each tries, and what came of it.

One process at a time works on a sweep directory: it asks for trials, starts their runs and stores what they measured.
In a database several such processes, one a machine, share a study.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from smallvision.core.errors import UserError
from smallvision.core.results import Results
from smallvision.core.rng import stream_seed
from smallvision.sweeps.plan import Plan
from smallvision.sweeps.space import Dimension, grid, override_value
from smallvision.sweeps.trial import TrialRun

JOURNAL = "store.journal"
CLAIM_SECONDS = 60.0  # after which a trial that no directory has claimed was left by a killed process

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


class GridSampler(BaseSampler):
    """Gives trial ``number`` the combination of that number."""

    def __init__(self, dimensions: list[Dimension], number: int) -> None:
        self.params = grid(dimensions)[number]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(self, study: object, trial: object, search_space: object) -> dict[str, object]:
        return {}

    def sample_independent(
        self, study: object, trial: object, param_name: str, param_distribution: BaseDistribution
    ) -> str:
        return self.params[param_name]


class Study:
    """The study of a plan, which :meth:`create` has made.

    Trials have numbers from 0, which their directories and reports show. A retry has the number of the trial that
    failed, so Optuna's own numbers may be higher.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        storage = open_storage(plan.storage, plan.directory)
        self.optuna = optuna.load_study(study_name=plan.name, storage=storage, pruner=plan.make_pruner())

    @classmethod
    def create(cls, plan: Plan) -> "Study":
        """The study of that plan: a new one, or the one created before. Raises UserError where the plan differs."""
        token = plan.directory / ".directory_id"
        if not token.is_file():
            token.write_text(secrets.token_hex(8))
        direction = StudyDirection.MAXIMIZE if plan.maximize else StudyDirection.MINIMIZE
        optuna.create_study(
            study_name=plan.name,
            storage=open_storage(plan.storage, plan.directory),
            direction=direction,
            load_if_exists=True,
        )
        study = cls(plan)
        if study._attribute("definition") is None:
            study.optuna.set_user_attr("definition", plan.definition())
        study._refuse_changes(study._attribute("definition"), plan.definition())
        study.optuna.set_user_attr("count", max(plan.count, study.count))
        plan.write()
        return study

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
        return dict(self._numbered())

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

    @cached_property
    def _directory_id(self) -> str:
        """Tells this sweep directory from another machine's in the same storage."""
        return (self.plan.directory / ".directory_id").read_text()

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
                return self._run(number, trial, seeds[0])
        started = self._start_trial()
        return self._run(*started, self.open_seeds(started[1])[0]) if started else None

    def complete_trials(self) -> None:
        """End trials whose seeds are all done but which a killed process could not end."""
        for _, trial in self._unfinished():
            if not self.open_seeds(trial):
                self._complete(trial)

    def retry_failed(self) -> int:
        """Enqueue every trial that failed once more, under its own number; returns how many."""
        failed = [(number, trial) for number, trial in self.trials.items() if trial.state == TrialState.FAIL]
        for number, trial in failed:
            values = {name: value for name, value in trial.user_attrs.items() if name.startswith("value/")}
            self.optuna.enqueue_trial(trial.params, user_attrs={"number": number, **values})
        return len(failed)

    def open_seeds(self, trial: FrozenTrial) -> list[int]:
        """Seeds whose runs have not ended."""
        return [seed for seed in self.plan.seeds if f"value/{seed}" not in trial.user_attrs]

    def _unfinished(self) -> list[tuple[int, FrozenTrial]]:
        """This directory's trials that have begun and not ended."""
        return [
            (number, trial)
            for number, trial in self.trials.items()
            if trial.state == TrialState.RUNNING and self._is_ours(trial)
        ]

    def _is_ours(self, trial: FrozenTrial) -> bool:
        """Whether its runs lie in this directory, or in none yet."""
        owner = trial.user_attrs.get("directory_id")
        if owner is not None or self.plan.storage is None:
            return owner in (None, self._directory_id)
        started = trial.datetime_start
        return started is not None and datetime.now() - started > timedelta(seconds=CLAIM_SECONDS)

    def _start_trial(self) -> tuple[int, FrozenTrial] | None:
        """A new trial with its values; None where there is none left to start.

        The storage numbers it, so of several processes that ask at once each gets another; what it tries follows from
        the number.
        """
        while True:
            attempts = list(self._numbered())
            retries = any(trial.state == TrialState.WAITING for _, trial in attempts)
            if not retries and sum("number" not in trial.user_attrs for _, trial in attempts) >= self.count:
                return None
            self.optuna.sampler = RandomSampler()
            asked = self.optuna.ask().number
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

    def _sample(self, number: int, trial: FrozenTrial) -> FrozenTrial:
        """The trial with its values; those that a killed process had not sampled yet are sampled now."""
        self._set(trial, "directory_id", self._directory_id)
        if len(trial.params) < len(self.plan.dimensions):
            self.optuna.sampler = self._sampler(number)
            live = Trial(self.optuna, trial._trial_id)
            for dimension in self.plan.dimensions:
                live._suggest(dimension.key, dimension.distribution)
        return self._attempt(trial.number)

    def _sampler(self, number: int) -> BaseSampler:
        """Samples the same values for that number, whatever was sampled before; tpe also looks at what is complete."""
        if self.plan.method == "grid":
            return GridSampler(self.plan.dimensions, number)
        seed = stream_seed(self.plan.sampler_seed, "sampler", number) % 2**32
        return TPESampler(multivariate=True, seed=seed) if self.plan.method == "tpe" else RandomSampler(seed=seed)

    def _duplicate(self, trial: FrozenTrial) -> tuple[int, FrozenTrial] | None:
        """A completed trial with the same values: running this one would give the same metrics."""
        if self.plan.method == "grid" or "number" in trial.user_attrs:
            return None
        done = (pair for pair in self.trials.items() if pair[1].state == TrialState.COMPLETE)
        return next((pair for pair in done if pair[1].params == trial.params), None)

    def _run(self, number: int, trial: FrozenTrial, seed: int) -> TrialRun:
        trial = self._sample(number, trial)
        params = {name: override_value(value) for name, value in trial.params.items()}
        return self.plan.run(number, params, seed)

    # What came of a run ---------------------------------------------------------------------------------

    def report(self, run: TrialRun, values: dict[int, float]) -> bool:
        """Store the metric by epoch, where it is not stored yet; whether the run should end here."""
        trial = self.trials[run.number]
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
        trial, value = self.trials[run.number], results.metrics[self.plan.metric]
        if results.data.stand_in_for is not None:
            self.optuna.set_user_attr("stand_in_for", results.data.stand_in_for)
        if trial.state != TrialState.RUNNING:
            return
        self._set(trial, f"seconds/{run.seed}", results.seconds.total or 0.0)
        if results.status == "pruned":
            self._end(trial, TrialState.PRUNED, f"{self.plan.pruner} pruner, after epoch {results.epochs}")
        elif value is None:
            self._end(trial, TrialState.FAIL, f"{self.plan.metric}: the run has no such metric; was it validated?")
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

    def fail(self, run: TrialRun, reason: str) -> None:
        """End a run's trial as failed. ``reason``: a first line that is enough by itself, and details below."""
        trial = self.trials[run.number]
        if trial.state == TrialState.RUNNING:
            self._end(trial, TrialState.FAIL, reason)

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
