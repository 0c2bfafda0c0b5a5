"""Products on each device, timed with its own clock stopped: what the hardware can do at most."""

import statistics
import time
from collections.abc import Callable

import torch

SIZES = (100, 300, 1000, 2000, 4000)
SECONDS = 0.3  # per measurement: repeated for about that long
ELEMENTS, LARGE = 1_000_000, 10_000


def timed(device: torch.device, work: Callable[[], object]) -> float:
    """Median seconds of one call, after one that does not count."""
    once(device, work)
    taken: list[float] = []
    while not taken or (sum(taken) < SECONDS and len(taken) < 1000):
        taken.append(once(device, work))
    return statistics.median(taken)


def once(device: torch.device, work: Callable[[], object]) -> float:
    """Seconds of one call; the device has finished before and after."""
    _wait_for(device)
    start = time.perf_counter()
    work()
    _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def matrix_products(device: torch.device, dtype: torch.dtype) -> dict[int, float]:
    """GFLOP/s of square matrix products on random numbers, by size."""
    rates = {}
    for size in SIZES:
        left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
        seconds = timed(device, lambda left=left, right=right: left @ right)  # type: ignore[misc]
        rates[size] = 2 * size**3 / seconds / 1e9
    return rates


def oblong(device: torch.device) -> float:
    """Milliseconds of a tutorial's product: 512 x 1024 by 1024 x 512, float32."""
    left, right = torch.randn(512, 1024, device=device), torch.randn(1024, 512, device=device)
    return timed(device, lambda: left @ right) * 1e3


def large(device: torch.device) -> float:
    """Seconds of a tutorial's large product: 10,000 x 10,000 squared, float32, once after a small one."""
    square = torch.randn(LARGE, LARGE, device=device)
    torch.mm(square[:100, :100], square[:100, :100])
    return once(device, lambda: square @ square)


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
