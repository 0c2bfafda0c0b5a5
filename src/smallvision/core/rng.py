"""Random streams that have a name instead of a history.

Every random draw comes from a stream named by (seed, purpose, counters such as epoch and step). Nothing about it is
ever saved: a resumed run, a re-run and one process of many draw the same numbers because they use the same names.
torch is imported where a generator is made, so that :func:`stream_seed` needs none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def stream_seed(seed: int, purpose: str, *counters: int) -> int:
    """A 63-bit seed for the stream of that name; equal names give equal seeds on every machine."""
    name = "/".join(map(str, (seed, purpose, *counters)))
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") >> 1


def stream(seed: int, purpose: str, *counters: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on ``device`` at the start of the stream of that name."""
    import torch

    return torch.Generator(device).manual_seed(stream_seed(seed, purpose, *counters))


def seed_global(device: torch.device, seed: int, purpose: str, *counters: int) -> None:
    """Seed the generators that layers draw from implicitly (dropout), on the CPU and on ``device``.

    ``torch.manual_seed`` does the same for every device of the machine, at 70 microseconds a call where this takes
    two: it is called once per step.
    """
    import torch

    value = stream_seed(seed, purpose, *counters)
    torch.default_generator.manual_seed(value)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(value)
    elif device.type == "mps":
        torch.mps.manual_seed(value)


@contextmanager
def seeded(seed: int, purpose: str, *counters: int) -> Iterator[None]:
    """Within the block the CPU's global generator runs on that stream; afterwards it is as before."""
    import torch

    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(stream_seed(seed, purpose, *counters))
    try:
        yield
    finally:
        torch.default_generator.set_state(before)
