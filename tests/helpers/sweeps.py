"""Sweeps as a report sees them, without running one."""

import random
from pathlib import Path
from typing import Any

from smallvision.reports.sweep_view import SweepView, TrialView

SPACE = {"optimizer.lr": "tag(log, interval(0.0001, 0.1))", "optimizer": "choice(adam, sgd)"}
REASONS = {"failed": "no memory left\n  at step 3", "pruned": "below the median"}


def a_trial(number: int, state: str = "done", seeds: int = 3, epochs: int = 4, **changes: Any) -> TrialView:
    """A trial with random params and curves, the same for the same ``number``."""
    random_numbers = random.Random(number)
    lr, height = 10 ** random_numbers.uniform(-4, -1), random_numbers.uniform(0.9, 0.95)
    length = epochs if state == "done" else 2
    curves = {
        seed: {epoch: height - 0.2 / epoch + random_numbers.gauss(0, 0.001) for epoch in range(1, length + 1)}
        for seed in range(seeds)
    }
    fields: dict[str, Any] = {
        "params": {"optimizer.lr": repr(lr), "optimizer": random_numbers.choice(["adam", "sgd"])},
        "curves": {} if state == "waiting" else curves,
        "values": {seed: max(curve.values()) for seed, curve in curves.items()} if state == "done" else {},
        "runs": {seed: Path(f"outputs/tried/{number}-seed{seed}") for seed in range(seeds)},
        "reason": REASONS.get(state),
        "seconds": 12.5,
    }
    return TrialView(number, state, **(fields | changes))


def a_sweep(*trials: TrialView, **changes: Any) -> SweepView:
    fields: dict[str, Any] = {
        "name": "tried", "directory": Path("outputs/tried"), "method": "random", "metric": "val/acc",
        "maximize": True, "seeds": [0, 1, 2], "space": SPACE, "fixed": ["model=mnist"], "planned": len(trials),
        "epochs": 4, "trials": list(trials), "pruner": "median",
    }  # fmt: skip
    return SweepView(**(fields | changes))


def usual_sweep() -> SweepView:
    """With trials of every state, the best of them tested."""
    states = ["done"] * 8 + ["pruned", "failed", "interrupted", "running", "waiting"]
    trials = [a_trial(number, state) for number, state in enumerate(states)]
    return a_sweep(*trials, test={0: 0.91, 1: 0.92, 2: 0.93})
