r"""The training time of an experiment by that of the same with other values, or in another environment: shortened runs
of both, in turn.

    python benchmarks/recipe.py experiment=cifar10_94 data.progressive_resizing.epochs=5 \
        data.progressive_resizing.size=20 --other data.progressive_resizing.size=0
    python benchmarks/recipe.py experiment=cifar10_94 --environment MALLOC_ARENA_TEST=8

Each run trains and validates on a fraction of its batches. The time is that of training and validation, without that
of the start.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def seconds(overrides: list[str], fraction: float, environment: dict[str, str]) -> float:
    """The time of one run."""
    batches = [f"trainer.limit_{part}_batches={fraction}" for part in ("train", "val")]
    with tempfile.TemporaryDirectory() as folder:
        command = [*overrides, *batches, "test=false", "report=false", f"hydra.run.dir={folder}"]
        subprocess.run(
            [sys.executable, "-m", "smallvision", *command], env=environment, stdout=subprocess.DEVNULL, check=True
        )
        results = json.loads((Path(folder) / "results.json").read_text())
    fit: float = results["seconds"]["fit"]
    return fit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="of both")
    parser.add_argument("--other", nargs="+", default=[], help="overrides of the other one, too")
    parser.add_argument("--environment", nargs="+", default=[], metavar="NAME=VALUE", help="of the other one")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--fraction", type=float, default=0.067, help="of the batches")
    arguments = parser.parse_args()
    environment = dict(os.environ)
    other_environment = environment | dict(assignment.split("=", 1) for assignment in arguments.environment)
    ratios = []
    for _ in range(arguments.pairs):
        one = seconds(arguments.overrides, arguments.fraction, environment)
        other = seconds([*arguments.overrides, *arguments.other], arguments.fraction, other_environment)
        ratios.append(one / other)
        print(f"{one:8.1f} s {other:8.1f} s {ratios[-1]:6.2f}", flush=True)
    print(f"median of {len(ratios)}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
