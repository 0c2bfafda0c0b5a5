"""How much of its speed training keeps while other programs compute: a busy loop for each core, or a run of the same.

    python benchmarks/busy_machine.py mnist fashion_mnist cifar10
    python benchmarks/busy_machine.py mnist fashion_mnist cifar10 --beside run

Each run trains for a few seconds without and with the other programs in turn. "unshared" is a run without
``share_processors``; the runs of both kinds alternate. Printed: medians over all runs. Needs Linux.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from smallvision.core.system import cores

UNSHARED = "from smallvision import cli; cli.share_processors = int; cli.main()"
KINDS = {"shared": ["-m", "smallvision"], "unshared": ["-c", UNSHARED]}
ALWAYS = ["device=cpu", "trainer.max_epochs=1000", "data.val_size=0", "test=false", "report=false"]
SETTLE = 3.0  # seconds after each change that do not count
STARTED = 15.0  # seconds until another run trains


class AlternateLoad(Callback):
    """Measure images per second ``rounds`` times without and with busy loops, then end the run.

    ``file``: gets the two lists of rates, as JSON. ``beside``: "loops" or "run".
    """

    def __init__(self, file: str, beside: str, seconds: float, rounds: int) -> None:
        self.file, self.beside, self.seconds, self.rounds = Path(file), beside, seconds, rounds
        self.rates: dict[str, list[float]] = {"quiet": [], "busy": []}
        self.state, self.images = "quiet", 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.beside == "run":
            command = [word for word in sys.orig_argv if not word.startswith(("+callbacks.", "hydra.run.dir="))]
            self.others = [
                subprocess.Popen([*command, f"hydra.run.dir={self.file.parent}/other"], stdout=subprocess.DEVNULL)
            ]
            time.sleep(STARTED)
        else:
            self.others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
        self._load("quiet")

    def _load(self, state: str) -> None:
        for other in self.others:
            other.send_signal(signal.SIGCONT if state == "busy" else signal.SIGSTOP)
        self.state, self.images, self.start = state, 0, time.monotonic() + SETTLE

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if now < self.start:
            self.since = now
            return
        self.images += len(batch[1])
        if now - self.since < self.seconds:
            return
        self.rates[self.state].append(self.images / (now - self.since))
        if len(self.rates["busy"]) < self.rounds:
            self._load("busy" if self.state == "quiet" else "quiet")
            return
        self.file.write_text(json.dumps(self.rates))
        trainer.should_stop = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for other in getattr(self, "others", []):
            other.kill()
            other.wait()


def measure(model: str, kind: str, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """The rates of one run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rates.json"
        timer = (
            f"{{_target_: busy_machine.AlternateLoad, file: {file}, beside: {arguments.beside},"
            f" seconds: {arguments.seconds}, rounds: {arguments.rounds}}}"
        )
        subprocess.run(
            [sys.executable, *KINDS[kind], f"model={model}", *ALWAYS, "use=busy_machine",
             f"+callbacks.alternate_load={timer}", f"hydra.run.dir={folder}/run"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        rates: dict[str, list[float]] = json.loads(file.read_text())
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["mnist", "fashion_mnist", "cifar10"])
    parser.add_argument("--beside", choices=["loops", "run"], default="loops")
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    parser.add_argument("--rounds", type=int, default=3, help="of each run")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    arguments = parser.parse_args()
    print(f"{'images/s':16}{'':10}{'quiet':>9}{'busy':>9}{'busy/quiet':>12}")
    for model in arguments.models:
        rates: dict[str, dict[str, list[float]]] = {kind: {"quiet": [], "busy": []} for kind in KINDS}
        ratios = []
        for _ in range(arguments.runs):
            quiet = {}
            for kind, found in rates.items():
                measured = measure(model, kind, arguments)
                for state, values in measured.items():
                    found[state] += values
                quiet[kind] = statistics.median(measured["quiet"])
            ratios.append(quiet["shared"] / quiet["unshared"])
        for kind, found in rates.items():
            quiet_rate, busy_rate = (statistics.median(values) for values in found.values())
            print(f"{model:16}{kind:10}{quiet_rate:9,.0f}{busy_rate:9,.0f}{busy_rate / quiet_rate:12.2f}")
        print(f"{model:16}shared/unshared, both quiet, median of runs: {statistics.median(ratios):.2f}", flush=True)


if __name__ == "__main__":
    main()
