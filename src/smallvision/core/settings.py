"""The settings of a process that a run changes and a notebook would notice: for the functions of the library."""

import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from hydra.core.global_hydra import GlobalHydra

from smallvision.core.system import STOP


@contextmanager
def unchanged_settings() -> Iterator[None]:
    """After the block they are as before: torch's threads, determinism, precision and random numbers; warnings,
    loggers, handlers of signals, environment variables, sys.path and Hydra's own state.
    """
    import lightning.pytorch  # noqa: F401 - it sets up its loggers and warnings when it is first imported
    import torch

    cudnn, memory, hydra = torch.backends.cudnn, cast(Any, torch.utils).deterministic, GlobalHydra.instance()
    devices = range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0)
    with ExitStack() as after:
        after.callback(torch.set_num_threads, torch.get_num_threads())
        warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
        deterministic = torch.are_deterministic_algorithms_enabled()
        after.callback(torch.use_deterministic_algorithms, deterministic, warn_only=warn_only)
        after.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        for owner, name in (
            (cudnn, "benchmark"), (cudnn, "deterministic"), (memory, "fill_uninitialized_memory"), (hydra, "hydra"),
        ):  # fmt: skip
            after.callback(setattr, owner, name, getattr(owner, name))
        for logger in (logging.root, *logging.root.manager.loggerDict.values()):
            if isinstance(logger, logging.Logger):
                after.callback(logger.setLevel, logger.level)
        after.callback(os.environ.update, dict(os.environ))
        after.callback(os.environ.clear)
        after.callback(sys.path.__setitem__, slice(None), list(sys.path))
        for number in STOP.numbers if threading.current_thread() is threading.main_thread() else ():
            after.callback(signal.signal, number, signal.getsignal(number))
        after.callback(STOP.reset)
        after.enter_context(torch.random.fork_rng(devices))
        after.enter_context(warnings.catch_warnings())
        after.callback(logging.captureWarnings, warnings.showwarning.__module__ == "logging")
        yield
