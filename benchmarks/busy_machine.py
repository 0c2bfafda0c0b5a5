"""How much of its speed training keeps while other programs compute: one busy loop for each core beside it.

    python benchmarks/busy_machine.py mnist fashion_mnist cifar10

Each run trains for a few seconds without and with the busy loops in turn. "unshared" is a run with OpenMP's own time of
waiting, as without ``share_processors``; the runs of both kinds alternate. Printed: medians over all runs. Needs Linux.
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

TRAIN = Path(__file__).parents[1] / "train.py"
KINDS = {"shared": {}, "unshared": {"GOMP_SPINCOUNT": "300000"}}
SETTLE = 0.7  # seconds after each change that do not count


class AlternateLoad(Callback):
    """Measure images per second ``rounds`` times without and with busy loops, then end the run.

    ``file``: gets the two lists of rates, as JSON.
    """

    def __init__(self, file: str, seconds: float, rounds: int) -> None:
        self.file, self.seconds, self.rounds = Path(file), seconds, rounds
        self.rates: dict[str, list[float]] = {"quiet": [], "busy": []}
        self.state, self.images = "quiet", 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
        self._load("quiet")

    def _load(self, state: str) -> None:
        for loop in self.loops:
            loop.send_signal(signal.SIGCONT if state == "busy" else signal.SIGSTOP)
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
        for loop in getattr(self, "loops", []):
            loop.kill()
            loop.wait()


def measure(model: str, kind: str, seconds: float, rounds: int) -> dict[str, list[float]]:
    """The rates of one run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rates.json"
        timer = f"{{_target_: busy_machine.AlternateLoad, file: {file}, seconds: {seconds}, rounds: {rounds}}}"
        subprocess.run(
            [sys.executable, str(TRAIN), f"model={model}", "device=cpu", "use=busy_machine",
             f"+callbacks.alternate_load={timer}", "trainer.max_epochs=1000", "data.val_size=0", "test=false",
             "report=false", f"hydra.run.dir={folder}/run"],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent), **KINDS[kind]},
            stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        rates: dict[str, list[float]] = json.loads(file.read_text())
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["mnist", "fashion_mnist", "cifar10"])
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
                measured = measure(model, kind, arguments.seconds, arguments.rounds)
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
