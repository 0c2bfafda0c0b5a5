"""Recorded losses, which hold on every machine."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from smallvision.training.device import hardware

Losses = dict[str, list[float]]


def assert_recorded(file: Path, losses: Callable[[str], Losses], header: str = "") -> Losses:
    """Compare with ``file`` what ``losses`` gives of a ``device.precision``, and return what it gives of 32 bits.

    On the kind of machine that recorded them, 32-bit losses must be equal to the last bit. Elsewhere other
    instructions sum in another order, and within a few steps 32-bit rounding can become a difference in the third
    digit; so 64-bit losses are recorded, too, and must agree everywhere. Without AVX, sines are rounded otherwise as
    well, and with them a few pixels of the images that are drawn here.
    """
    machine = f"{hardware('cpu')}, {torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}"
    found = {precision: losses(precision) for precision in ("32", "64-true")}
    if os.environ.get("SMALLVISION_RECORD"):
        file.write_text(header + yaml.safe_dump({"machine": machine, **found}, sort_keys=False))
    recorded = yaml.safe_load(file.read_text())
    if recorded["machine"] == machine:
        assert found["32"] == recorded["32"]
    rounding = 1e-6 if torch.backends.cpu.get_cpu_capability().startswith("AVX") else 1e-2
    assert found["64-true"] == {
        name: pytest.approx(values, rel=rounding) for name, values in recorded["64-true"].items()
    }
    return found["32"]
