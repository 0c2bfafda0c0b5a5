"""Where the trials of a sweep are stored: a journal in its directory, or a database that several machines share."""

import os
import random
import sqlite3
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._rdb import models
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState
from sqlalchemy import func, insert, make_url, select, update
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, ProgrammingError, SQLAlchemyError

from smallvision.core.console import Console
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.system import STOP

JOURNAL = "store.journal"
RETRY_SECONDS = 1.0  # between attempts to reach a database
BEAT_SECONDS = 5.0  # between two heartbeats, at most
OPENINGS = 10  # attempts to make the tables, which several processes may do at once

P = ParamSpec("P")
T = TypeVar("T")


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


class Database(RDBStorage):
    """A database, of which every operation waits while it cannot be reached.

    A trial has a heartbeat, by the clock of the server, while the process that owns it is alive; ``adopt_seconds``
    after the last one another process may adopt it.
    """

    def __init__(self, address: str, adopt_seconds: float) -> None:
        url = make_url(address)
        if url.drivername == "postgresql":  # whichever driver this version of SQLAlchemy prefers
            url = url.set(drivername="postgresql+psycopg")
        super().__init__(url.render_as_string(hide_password=False))
        self.adopt_seconds = adopt_seconds
        self.beat_seconds = min(BEAT_SECONDS, adopt_seconds / 6)
        self.heartbeat_interval, self.grace_period = 1, adopt_seconds  # type: ignore[assignment]  # 1: no None
        self.reached_since = time.monotonic()

    def beat(self, study_id: int, owned: list[int]) -> set[int]:
        """Record that the process which owns these trials is alive. Gives the trials of processes that are not, or
        none as long as others may not have reached the database either.
        """
        beats, trials = models.TrialHeartbeatModel, models.TrialModel
        running = select(trials.trial_id).where(trials.study_id == study_id, trials.state == TrialState.RUNNING)
        with self.engine.begin() as connection:
            connection.execute(update(beats).where(beats.trial_id.in_(owned)).values(heartbeat=func.now()))
            without = list(connection.scalars(running.where(trials.trial_id.not_in(select(beats.trial_id)))))
        for trial_id in without:  # whose owner may have been killed before its first one
            try:
                with self.engine.begin() as connection:
                    connection.execute(insert(beats).values(trial_id=trial_id, heartbeat=func.now()))
            except IntegrityError:  # another process has just done so
                continue
        settled = time.monotonic() - self.reached_since > 2 * BEAT_SECONDS + RETRY_SECONDS
        return self.stale(study_id) if settled else set()

    def stale(self, study_id: int) -> set[int]:
        """The running trials whose last heartbeat is too long ago."""
        return set(self._get_stale_trial_ids(study_id))

    def change_owner(self, trial_id: int, before: str, now: str) -> bool:
        """Give a trial to another process, unless a third one has taken it; whether it was given."""
        attributes = models.TrialUserAttributeModel
        mine = update(attributes).where(
            attributes.trial_id == trial_id, attributes.key == "owner", attributes.value_json == f'"{before}"'
        )
        with self.engine.begin() as connection:
            if connection.execute(mine.values(value_json=f'"{now}"')).rowcount != 1:
                return False
            beats = models.TrialHeartbeatModel
            connection.execute(update(beats).where(beats.trial_id == trial_id).values(heartbeat=func.now()))
        return True


def patient(operation: Callable[P, T]) -> Callable[P, T]:
    """The operation of a :class:`Database`, repeated until the database can be reached."""

    @wraps(operation)
    def repeated(*args: P.args, **kwargs: P.kwargs) -> T:
        waits = False
        while True:
            try:
                return operation(*args, **kwargs)
            except (SQLAlchemyError, StorageInternalError) as error:
                database = args[0]
                assert isinstance(database, Database)
                if not is_away(error):
                    raise
                if not waits:
                    Console().print("  sweep.storage: the database cannot be reached; waiting for it", style="bold red")
                waits = True
                if STOP.signal is not None:
                    raise Interrupted from None
                time.sleep(RETRY_SECONDS)
                database.reached_since = time.monotonic()

    return repeated


for name in (*BaseStorage.__abstractmethods__, "_create_new_trial", "_get_trials", "_set_trial_param", "beat", "stale",
             "change_owner", "_get_best_trial_id"):  # fmt: skip
    if hasattr(Database, name):
        setattr(Database, name, patient(getattr(Database, name)))


def is_away(error: BaseException) -> bool:
    """Whether the server cannot be reached, or not now; of a file of SQLite: whether another process is writing it."""
    if isinstance(error, OperationalError):
        return not isinstance(error.orig, sqlite3.OperationalError) or "locked" in str(error.orig)
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = error.__cause__ or error.__context__  # Optuna tries some things twice
    return cause is not None and is_away(cause)


def open_storage(address: str | None, directory: Path, adopt_minutes: float) -> BaseStorage:
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
    for attempt in range(OPENINGS):
        try:
            return Database(address, 60 * adopt_minutes)
        except ImportError:
            extra = ": pip install 'smallvision[postgres]'" if address.startswith("postgresql") else ""
            raise UserError(f"sweep.storage={address}: its driver is not installed{extra}") from None
        except Exception as error:  # every database driver has its own
            cause = error if isinstance(error, SQLAlchemyError) else error.__cause__
            if not isinstance(cause, (IntegrityError, ProgrammingError)) or attempt == OPENINGS - 1:
                raise UserError(f"sweep.storage={address}: {str(error).splitlines()[0]}") from None
            time.sleep(random.random())  # another process was making the same tables
    raise AssertionError


optuna.logging.set_verbosity(optuna.logging.ERROR)
