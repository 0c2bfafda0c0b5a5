"""A network out of a stranger's file is built no larger than the weights in the file."""

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook


@contextmanager
def no_larger_than(shapes: Iterable[tuple[int, ...]]) -> Iterator[None]:
    """Within the block this thread cannot build a network of more or larger parameters than a file with
    tensors of those ``shapes`` could fill: the config of a few bytes may ask for years of building.

    Raises ValueError, at the first that is too large.
    """
    sizes = [math.prod(shape) for shape in shapes]
    largest = sum(sizes)
    most, thread = 2 * len(sizes) + 8, threading.get_ident()  # twice: some networks build more than they keep
    seen = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal seen
        if threading.get_ident() == thread and parameter is not None:
            seen += 1
            if seen > most or parameter.numel() > largest:
                raise ValueError("larger than the weights in the file")

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
