"""Runs of a sweep as tasks of a Ray cluster: one that there is, or one that is started here.

A task is a run. One whose worker or node dies is followed by another, which goes on from the run's last checkpoint.
"""

import gc
import logging
import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smallvision.config.schema import Sweep
from smallvision.core.errors import UserError
from smallvision.core.system import STOP, cores
from smallvision.sweeps.executors import Event
from smallvision.sweeps.trial import DIRECTORY_ID, Reason, TrialRun

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ModuleNotFoundError:  # said by connect
    ray = None

if TYPE_CHECKING:
    from ray import ObjectRef

POLL_SECONDS = 2.0  # from one look at the cluster's nodes to the next
CONNECT_SECONDS = 5.0
ATTEMPTS = 3  # to start a process for a client
SAVE_SECONDS = 30.0  # for runs that were asked to stop when the sweep ends
OBJECT_STORE = 100_000_000  # bytes, of a Ray that is started here: nothing is kept in it


class RayExecutor:
    """``settings.resources``: what a run takes, as arguments of ``ray.remote`` (``num_cpus``, ``num_gpus``, ``memory``,
    ``resources``); a CPU and, where the cluster has GPUs, its part of one, where it names none.

    ``slots`` follows the nodes of the cluster, unless ``sweep.workers`` is set.
    """

    asks = False

    def __init__(self, directory: Path, settings: Sweep, device: str) -> None:
        connect(settings.address)
        options: dict[str, Any] = {"num_cpus": 1}
        if device in ("auto", "cuda") and any("GPU" in resources for resources in nodes()):
            options["num_gpus"] = 1 / settings.per_device
        options |= settings.resources
        try:
            # Ray would repeat what needs too much memory for ever; the sweep repeats what it brings on.
            self.task = ray.remote(max_retries=0, **options)(execute)
        except (TypeError, ValueError) as error:
            raise UserError(f"sweep.resources: {brief(error)}") from None
        self.required = required(options)
        self.workers, self.looked = settings.workers, time.monotonic()
        self.slots = self.workers or self.room()
        if self.room() == 0:
            offered = "; ".join(", ".join(f"{name} {count:g}" for name, count in one.items()) for one in nodes())
            raise UserError(f"sweep.resources={options}: no node of the Ray cluster has that; they have {offered}")
        self.place = str(Path.cwd()), (directory / DIRECTORY_ID).read_text()
        self.tasks: dict[ObjectRef, TrialRun] = {}

    def room(self) -> int:
        """How many runs the nodes of the cluster hold at once."""
        return sum(
            min((int(node.get(name, 0) / amount + 1e-6) for name, amount in self.required.items()), default=1)
            for node in nodes()
        )

    def submit(self, runs: list[TrialRun]) -> None:
        self.tasks |= {self.task.remote(run, *self.place): run for run in runs}

    def wait(self, seconds: float) -> list[Event]:
        if self.workers is None and time.monotonic() - self.looked > POLL_SECONDS:
            self.slots, self.looked = max(1, self.room()), time.monotonic()
        if not self.tasks:
            time.sleep(seconds)
            return []
        ended, _ = ray.wait([*self.tasks], timeout=seconds)
        return [result(self.tasks.pop(task), task) for task in ended]

    def go_on(self, run: TrialRun) -> None:
        raise AssertionError("no run asks")

    def stop(self) -> None:
        for task in self.tasks:
            ray.cancel(task)  # a SIGINT to one that runs

    def close(self) -> None:
        """Leave the cluster, which ends what still runs of ours; Ray itself where it was started here."""
        with suppress(RayError):
            self.stop()
            if self.tasks:
                ray.wait([*self.tasks], num_returns=len(self.tasks), timeout=SAVE_SECONDS)
        ray.shutdown()


def connect(address: str | None) -> None:
    """Start Ray here (None), or join the cluster at ``address``. Raises UserError where it cannot be reached."""
    if ray is None:
        raise UserError('sweep.launcher=ray: needs a package: pip install "smallvision[ray]"')
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    started = {"num_cpus": cores(), "object_store_memory": OBJECT_STORE, "include_dashboard": False}
    try:
        if address not in (None, "auto", "local"):  # Ray itself would try for a minute
            host, _, port = address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        init(address or "local", **(started if address is None else {}))
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise UserError(f"sweep.address={address}: {brief(error)}") from None
    ray._private.worker.print_to_stdstream = ignore  # that a node died, between the lines of the sweep
    STOP.install()  # Ray has put its own there


def init(address: str, **settings: Any) -> None:
    """``ray.init``, again where the cluster's process for a new client died at once: about one of fourteen starts by
    ray-project/ray#63202."""
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR, **settings)
            return
        except ConnectionAbortedError as error:
            if not attempts_left or "ray_client_server_" not in str(error):
                raise


def nodes() -> list[dict[str, float]]:
    """What each node that is alive offers."""
    return [
        {name: count for name, count in node["Resources"].items() if not name.startswith(("node:", "object_store"))}
        for node in ray.nodes()
        if node["Alive"]
    ]


def required(options: dict[str, Any]) -> dict[str, float]:
    """Those resources under the names of :func:`nodes`."""
    found = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus"), "memory": options.get("memory")}
    found |= options.get("resources") or {}
    return {name: float(amount) for name, amount in found.items() if amount}


def execute(run: TrialRun, folder: str, directory_id: str) -> Reason | None:
    """A task: the run, from ``folder``, which a signal or ``ray.cancel`` stops at its next step."""
    directory = run.directory
    try:
        os.chdir(folder)
        directory = directory.resolve().parent
        seen = (directory / DIRECTORY_ID).read_text() == directory_id and run.configs.is_dir()
    except OSError:
        seen = False
    if not seen:
        node = ray.util.get_node_ip_address()
        raise UserError(
            f"node {node} does not see {folder}, {run.configs} or {directory} as this machine does; a sweep on Ray"
            " needs a file system that all nodes share, under one path"
        )
    STOP.install()
    try:
        return run.execute_on_node()
    finally:
        gc.collect()  # Trainer, model and loader refer to each other, and the next run may come to this process


def result(run: TrialRun, task: "ObjectRef") -> Event:
    """What became of a task that has ended."""
    try:
        return Event(run, "ended", ray.get(task))
    except RayTaskError as error:  # before the run
        raise UserError(f"sweep.launcher=ray: {error.cause or brief(error)}") from None
    except RayError as error:
        return Event(run, "died", Reason(f"Ray: {brief(error).partition('. ')[0].lower()}"))


def ignore(*_: object, **__: object) -> None:
    pass


def brief(error: Exception) -> str:
    """The first line of a message, and the last one, which of a traceback is the error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return " ".join(dict.fromkeys([lines[0].strip(), lines[-1].strip()]))
