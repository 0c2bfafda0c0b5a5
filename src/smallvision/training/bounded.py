"""A network out of a stranger's file is built no larger than the weights in the file."""

import math
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook


def refuse_larger(make: Callable[[], nn.Module], weights: Iterable[Tensor]) -> None:
    """Build the network that a stranger's config asks for without memory, before it is built with some.

    Raises Refusal where it is larger than the ``weights`` beside the config.
    """
    with no_larger_than(tuple(one.shape) for one in weights), torch.device("meta"):
        make()


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
