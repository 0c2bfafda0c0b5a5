"""Workers as jobs of a cluster, by submitit; all on the sweep's one store."""

import os
import signal
from pathlib import Path
from typing import Any

from smallvision.errors import Refusal
from smallvision.signals import STOP
from smallvision.sweeps.plan import Plan


class Job:
    """What a job does; where the cluster takes its machine away, it is queued anew and goes on."""

    def __init__(self, plan: str, name: str) -> None:
        self.plan, self.name = plan, name

    def __call__(self) -> int:
        from smallvision.sweeps.worker import begin

        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # submitit ignores it; ours stops after the step
        return begin(Plan.from_json(self.plan), self.name)

    def checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        from submitit.helpers import DelayedSubmission

        STOP.signal = STOP.signal or "preempted"
        return DelayedSubmission(self)


class ClusterWorker:
    """A submitted job."""

    def __init__(self, job: Any, name: str) -> None:
        self.job, self.name = job, name
        self.log = Path(job.paths.stdout)

    def poll(self) -> int | None:
        if not self.job.done():
            return None
        if self.job.exception() is not None:
            return 1
        return int(self.job.result())

    def stop(self) -> None:
        self.job.cancel(check=False)

    def kill(self) -> None:
        self.stop()


class Cluster:
    """Submits jobs. ``options``: submitit's own (``timeout_min``, ``slurm_partition``, ``gpus_per_node``)."""

    def __init__(self, plan: Plan, options: dict[str, Any]) -> None:
        try:
            import submitit
        except ModuleNotFoundError:
            raise Refusal("sweep.launcher=slurm: needs a package: pip install submitit") from None
        self.plan = plan
        chosen = dict(options)
        try:
            self.executor = submitit.AutoExecutor(
                folder=plan.directory / "jobs", cluster=chosen.pop("cluster", "slurm")
            )
            self.executor.update_parameters(name=plan.name, **chosen)
        except (RuntimeError, ValueError, NameError, TypeError) as error:
            raise Refusal(f"sweep.launcher=slurm: {str(error).splitlines()[0]}") from None
        os.environ.setdefault("PYTHONUNBUFFERED", "1")

    def start(self, name: str, place: int) -> ClusterWorker:
        return ClusterWorker(self.executor.submit(Job(self.plan.to_json(), name)), name)
