"""A Slurm cluster of two nodes on this machine, started by hand."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from helpers.command import free_ports

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "squeue", "scancel")
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
KillWait=60
SlurmdTimeout=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_1} CPUs=1 RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={port_2} CPUs=1 RealMemory=2000
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1
PartitionName=urgent Nodes=n1,n2 PriorityTier=10
"""


def missing() -> list[str]:
    """What is not installed of Slurm."""
    paths = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
    return [name for name in PROGRAMS if shutil.which(name, path=paths) is None]


class Slurm:
    """``environment``: with which the commands of Slurm find it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        path = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])
        self.environment = {**os.environ, "PATH": path, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self) -> None:
        port, port_1, port_2 = free_ports(3)
        host = socket.gethostname().split(".")[0]
        for name in ("state", "spool.n1", "spool.n2"):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(
            CONFIG.format(folder=self.folder, host=host, port=port, port_1=port_1, port_2=port_2)
        )
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log",
                 "seed-file": "munge.seed"}  # fmt: skip
        self.run("munged", "--force", *(f"--{option}={self.folder / name}" for option, name in files.items()))
        self.run("slurmctld")
        (self.folder / "hosts").write_text(f"{Path('/etc/hosts').read_text()}\n127.0.0.1 n1 n2\n")
        for node in ("n1", "n2"):
            self.start_node(node)
        self.wait_for_nodes()

    def start_node(self, node: str) -> None:
        hosts = self.folder / "hosts"  # in which nodes find each other
        self.run("unshare", "--mount", "sh", "-c", f"mount --bind {hosts} /etc/hosts; exec slurmd -N {node}")

    def wait_for_nodes(self) -> None:
        while self.run("sinfo", "--noheader", "--Node", "--format=%T", "--partition=main").split() != ["idle"] * 2:
            time.sleep(0.2)

    def run(self, *command: str) -> str:
        process = subprocess.run(command, env=self.environment, capture_output=True, text=True)
        assert process.returncode == 0, process.stderr
        return process.stdout

    def jobs(self, states: str = "pending,running,suspended,completing") -> list[str]:
        """Numbers of the jobs in those states."""
        return self.run("squeue", "--noheader", "--array", "--format=%i", f"--states={states}").split()

    def kill(self, name: str) -> None:
        """SIGKILL to a daemon: slurmctld, slurmd.n1 ..."""
        with_pid = self.folder / f"{name}.pid"
        if with_pid.is_file():
            subprocess.run(["kill", "-9", with_pid.read_text().strip()], capture_output=True)

    def kill_node(self, node: str, *, steps: bool) -> None:
        """SIGKILL to a node's slurmd, also to its jobs, or they run on without it; the node comes back later."""
        for job_id in self.run("squeue", "--noheader", "--format=%A", f"--nodelist={node}").split() if steps else ():
            daemons = subprocess.run(["pgrep", "--full", rf"^slurmstepd: \[{job_id}\."], capture_output=True, text=True)
            for pid in daemons.stdout.split():
                kill_tree(pid)
        self.kill(f"slurmd.{node}")
        self.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=killed")  # without waiting for it
        self.start_node(node)

    def stop(self) -> None:
        subprocess.run(["scancel", "--user", "root"], env=self.environment, capture_output=True)
        for name in ("slurmd.n1", "slurmd.n2", "slurmctld", "munged"):
            self.kill(name)


def kill_tree(pid: str) -> None:
    """SIGKILL to a process and to all that it started."""
    children = subprocess.run(["pgrep", "--parent", pid], capture_output=True, text=True).stdout.split()
    subprocess.run(["kill", "-9", pid], capture_output=True)
    for child in children:
        kill_tree(child)


@contextmanager
def cluster(folder: Path) -> Iterator[Slurm]:
    slurm = Slurm(folder)
    try:
        slurm.start()
        yield slurm
    finally:
        slurm.stop()
