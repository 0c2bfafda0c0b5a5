"""Matrix and elementwise products on each device: the most that the hardware can do."""

import logging
from dataclasses import dataclass, field

import torch
from torch import Tensor

# Its import warns where there is a CUDA compiler and no GPU.
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
from torch.utils.benchmark import Timer  # noqa: E402

SIZES = (100, 300, 1000, 2000, 4000)
SECONDS = 0.3  # each product is repeated for at least that long
ELEMENTS, LARGE = 1_000_000, 10_000


@dataclass
class Products:
    """``gflops``: by dtype and size n, of n x n by n x n. The others are float32: ``elementwise_ms`` multiplies two
    arrays of a million elements, ``oblong_ms`` is 512 x 1024 by 1024 x 512, ``large_s`` a square of 10,000 x 10,000.
    """

    gflops: dict[str, dict[int, float]] = field(default_factory=dict)
    elementwise_ms: float = 0.0
    oblong_ms: float = 0.0
    large_s: float | None = None


def time_products(device: torch.device, with_large: bool) -> Products:
    """All products of random numbers on one device."""
    products = Products()
    for dtype in (torch.float32, torch.bfloat16):
        rates = products.gflops[str(dtype).removeprefix("torch.")] = {}
        for size in SIZES:
            a, b = random(device, size, size).to(dtype), random(device, size, size).to(dtype)
            rates[size] = 2 * size**3 / seconds("a @ b", a, b) / 1e9
    products.elementwise_ms = 1e3 * seconds("a * b", random(device, ELEMENTS), random(device, ELEMENTS))
    products.oblong_ms = 1e3 * seconds("a @ b", random(device, 512, 1024), random(device, 1024, 512))
    if with_large:
        square = random(device, LARGE, LARGE)
        products.large_s = seconds("a @ b", square, square)
    return products


def random(device: torch.device, *shape: int) -> Tensor:
    return torch.randn(*shape, device=device)


def seconds(statement: str, a: Tensor, b: Tensor) -> float:
    """Median seconds of a statement in ``a`` and ``b``, after a warm-up; the device finishes before the clock stops."""
    timer = Timer(statement, globals={"a": a, "b": b}, num_threads=torch.get_num_threads())
    return timer.blocked_autorange(min_run_time=SECONDS).median


def devices() -> list[torch.device]:
    """The CPU, and the accelerator if there is one."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return [torch.device("cpu"), *([accelerator] if accelerator is not None else [])]
