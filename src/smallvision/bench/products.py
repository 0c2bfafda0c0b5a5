"""Products on each device, timed with its own clock stopped: what the hardware can do at most."""

import statistics
import time
from collections.abc import Callable

import torch

SIZES = (100, 300, 1000, 2000, 4000)
SECONDS = 0.3  # per measurement: repeated for about that long
ELEMENTS = 1_000_000


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Median seconds of one call, after two that do not count; the device has finished each time."""

    def once() -> float:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()
        return time.perf_counter() - start

    for _ in range(2):
        once()
    taken: list[float] = []
    while len(taken) < 3 or (sum(taken) < SECONDS and len(taken) < 1000):
        taken.append(once())
    return statistics.median(taken)


def matrix_products(device: torch.device, dtype: torch.dtype) -> dict[int, float]:
    """GFLOP/s of square matrix products on random numbers, by size."""
    rates = {}
    for size in SIZES:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = timed(device, lambda left=left, right=right: left @ right)  # type: ignore[misc]
        rates[size] = 2 * size**3 / seconds / 1e9
    return rates


def elementwise(device: torch.device) -> float:
    """Milliseconds to multiply two float32 arrays of a million elements, element by element."""
    left, right = (torch.randn(ELEMENTS, device=device) for _ in range(2))
    return timed(device, lambda: left * right) * 1e3


def devices() -> list[torch.device]:
    """The processor, and what else is here."""
    here = [torch.device("cpu")]
    if torch.cuda.is_available():
        here.append(torch.device("cuda"))
    if torch.backends.mps.is_available():
        here.append(torch.device("mps"))
    return here
