"""Which device a run is on, and how precisely and in which layout it computes there."""

import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from smallvision.config import schema
from smallvision.core.errors import UserError
from smallvision.core.system import cores

# Below this many multiplications and additions an image, bf16's conversions on a CPU cost more than its
# arithmetic saves; measured on a two-core AVX-512 machine, where the tutorials' networks have 1e6.
WORTH_BF16_ON_CPU = 2e7
THREADS = torch.get_num_threads()  # as torch came up, by OMP_NUM_THREADS where that is set

S = TypeVar("S", schema.Optimizer, schema.RestOptimizer)


@dataclass(frozen=True)
class Device:
    """``kind``: cpu, cuda or mps; ``precision``: by Lightning's name; ``hardware``: its product name.

    ``compile``: whether torch.compile makes code of the network for it.
    """

    kind: str
    precision: str
    channels_last: bool
    threads: int
    hardware: str
    compile: bool = False

    @property
    def accelerator(self) -> str:
        return "gpu" if self.kind == "cuda" else self.kind

    def with_kernel(self, optimizer: S) -> S:
        """The optimizer's section with the fastest kernel that torch has here, unless one was chosen.

        Fused: one kernel for all tensors. Not with 16-mixed, whose gradient scaler would have to unscale
        inside of it, and then nothing can be clipped.
        """
        arguments = optimizer.extra
        free = arguments.get("fused", False) is None and not arguments.get("foreach")
        if free and self.kind in ("cpu", "cuda") and self.precision != "16-mixed":
            return replace(optimizer, extra={**arguments, "fused": not arguments.get("differentiable")})
        return optimizer

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        threads = f", {self.threads} thread{'s' * (self.threads != 1)}" if self.kind == "cpu" else ""
        compiled = ", compiled" if self.compile else ""
        return f"{self.kind} ({self.hardware}{threads}), precision {self.precision}, {layout}{compiled}"


def kind_of(name: str) -> str:
    """``cuda``, ``mps`` or ``cpu`` for a choice of ``device=``; UserError where this machine has none."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(kind for kind, here in present.items() if here)
    if not present[name]:
        here = ", ".join(kind for kind, there in present.items() if there)
        raise UserError(f"device={name}: this machine has none that torch can use; here: {here}, auto")
    return name


def choose(config: schema.Device, flops: int) -> Device:
    """The device for a network of ``flops`` floating-point operations an image, forward."""
    kind = kind_of(config.name)
    if kind == "cpu":
        # Lightning has torch look for a GPU by loading NVIDIA's library, which Adam then does at each step: 4 % of one
        # of model=mnist.
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "0"
    torch.set_num_threads(config.threads or min(THREADS, cores()))
    precision = str(config.precision)
    if precision == "auto":
        fast = kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        fast = fast or (kind == "cpu" and flops >= WORTH_BF16_ON_CPU and cpu_has_bf16())
        precision = "bf16-mixed" if fast else "32"
    if precision == "16-mixed" and kind == "cpu":
        raise UserError("device.precision=16-mixed: not on a CPU; use 32 or bf16-mixed")
    if precision == "64-true" and kind == "mps":
        raise UserError(
            "device.precision=64-true: not on an Apple GPU, which has no such numbers; use 32 or device=cpu"
        )
    layout = config.memory_format
    return Device(
        kind=kind,
        precision="32" if precision == "32-true" else precision,
        channels_last=kind != "mps" if layout == "auto" else layout == "channels_last",
        threads=torch.get_num_threads(),
        hardware=hardware(kind),
        compile=config.compile,
    )


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 itself (AVX-512 BF16, AMX, or Arm's BF16)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not in every torch
    here = any(getattr(torch.cpu, name)() for name in names if hasattr(torch.cpu, name))
    return here or "bf16" in _cpuinfo("Features").split()


def hardware(kind: str) -> str:
    if kind == "cuda":
        return torch.cuda.get_device_name()
    name = _cpuinfo("model name") or platform.processor() or platform.machine()
    return " ".join(name.split()) if kind == "cpu" else f"{name} GPU"


def _cpuinfo(field: str) -> str:
    file = Path("/proc/cpuinfo")
    for line in file.read_text().splitlines() if file.is_file() else []:
        name, _, value = line.partition(":")
        if name.strip() == field:
            return value.strip()
    return ""
