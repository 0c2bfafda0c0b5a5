"""How much of their speed task=predict, task=serve and a sweep of two workers keep beside a busy loop for each core.

    python benchmarks/busy_commands.py

Each is measured without and with the busy loops in turn; predict and the sweep with their start. Needs Linux and
MNIST (``SMALLVISION_DATA``).
"""

import argparse
import io
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from smallvision.core.system import cores

SECONDS = 3.0  # of requests
IMAGES = 10_000


def run(*overrides: str) -> float:
    """Rate of a command: 1 by its seconds."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "smallvision", *overrides], stdout=subprocess.DEVNULL, check=True)
    return 1 / (time.monotonic() - started)


def png(generator: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(generator.integers(0, 255, (32, 32, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def requests(image: bytes, address: str) -> float:
    """Requests per second, one after another."""
    count, started = 0, time.monotonic()
    while time.monotonic() - started < SECONDS:
        with urllib.request.urlopen(f"{address}/predict", image) as answer:
            answer.read()
        count += 1
    return count / (time.monotonic() - started)


def compare(name: str, rate: Callable[[], float], loops: list[subprocess.Popen[bytes]], rounds: int) -> None:
    """Print the median of busy / quiet."""
    ratios = []
    rate()  # the first one also waits for the disk
    for _ in range(rounds):
        quiet = rate()
        for loop in loops:
            loop.send_signal(signal.SIGCONT)
        ratios.append(rate() / quiet)
        for loop in loops:
            loop.send_signal(signal.SIGSTOP)
    print(f"{name:8}{statistics.median(ratios):6.2f}  ({min(ratios):.2f} to {max(ratios):.2f})", flush=True)


def measure(loops: list[subprocess.Popen[bytes]], rounds: int) -> None:
    """All three, in the working directory."""
    generator = np.random.default_rng(0)
    Path("images").mkdir()
    for number in range(IMAGES):
        Path(f"images/{number}.png").write_bytes(png(generator))
    data = ("data=shapes", "data.images=500", "data.size=32", "data.channels=3")
    run("model=cifar10", *data, "trainer.max_epochs=1", "report=false", "hydra.run.dir=trained")
    checkpoint = "checkpoint=trained/checkpoints/best.ckpt"
    command = [sys.executable, "-m", "smallvision", "task=serve", checkpoint, "serve.port=0"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        address = next(word for line in server.stdout for word in line.split() if word.startswith("http://")).rstrip(
            "/"
        )
        image = png(generator)
        compare("serve", lambda: requests(image, address), loops, rounds)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()
    compare("predict", lambda: run("task=predict", checkpoint, "images=images"), loops, rounds)
    sweep = ("-m", "model=mnist", "trainer.max_epochs=3", "seed=0,1,2,3", "sweep.workers=2", "report=false")
    compare("sweep", lambda: run(*sweep), loops, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores())]
    for loop in loops:
        loop.send_signal(signal.SIGSTOP)
    try:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            measure(loops, rounds)
    finally:
        for loop in loops:
            loop.kill()


if __name__ == "__main__":
    main()
