"""Which device, which precision, which layout."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from smallvision.config import schema
from smallvision.core import system as cores
from smallvision.core.errors import UserError
from smallvision.training import device as devices
from smallvision.training.device import Device, choose, kind_of

FEW, MANY = 1_000_000, 100_000_000
AUTO = schema.Device("cpu", "auto", "auto", threads=None, compile=False)


@pytest.fixture(autouse=True)
def _threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes this machine one that has these devices, with bf16 in hardware or not."""

    def pretend(*kinds: str, bf16: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in kinds)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in kinds)
        monkeypatch.setattr(devices, "cpu_has_bf16", lambda: bf16)

    return pretend


@pytest.mark.parametrize(
    ("here", "name", "kind"),
    [
        ((), "auto", "cpu"),
        ((), "cpu", "cpu"),
        (("cuda",), "auto", "cuda"),
        (("mps",), "auto", "mps"),
        (("cuda", "mps"), "auto", "cuda"),
        (("cuda",), "cpu", "cpu"),
        (("mps",), "mps", "mps"),
    ],
)
def test_the_device_is_the_one_asked_for_or_the_fastest(
    machine: Any, here: tuple[str, ...], name: str, kind: str
) -> None:
    machine(*here)
    assert kind_of(name) == kind


@pytest.mark.parametrize(("here", "name"), [((), "cuda"), ((), "mps"), (("mps",), "cuda"), (("cuda",), "mps")])
def test_a_device_that_is_not_there_is_refused_and_those_there_are_named(
    machine: Any, here: tuple[str, ...], name: str
) -> None:
    machine(*here)
    with pytest.raises(UserError, match=f"device={name}: .*cpu, auto") as refused:
        kind_of(name)
    assert all(kind in str(refused.value) for kind in here)


@pytest.mark.parametrize(
    ("kind", "bf16", "flops", "precision"),
    [
        ("cpu", False, MANY, "32"),
        ("cpu", True, FEW, "32"),
        ("cpu", True, MANY, "bf16-mixed"),
        ("cuda", True, FEW, "bf16-mixed"),
        ("cuda", False, MANY, "32"),
        ("mps", True, MANY, "32"),
    ],
)
def test_the_precision_goes_by_the_hardware_and_the_network(
    machine: Any, kind: str, bf16: bool, flops: int, precision: str
) -> None:
    machine(kind, bf16=bf16)
    assert choose(replace(AUTO, name=kind), flops).precision == precision


@pytest.mark.parametrize(
    ("asked", "precision"), [(32, "32"), ("32", "32"), ("32-true", "32"), ("bf16-mixed", "bf16-mixed")]
)
def test_a_precision_that_is_asked_for_is_taken(machine: Any, asked: Any, precision: str) -> None:
    machine(bf16=True)
    assert choose(replace(AUTO, precision=asked), MANY).precision == precision


def test_half_precision_is_refused_on_a_processor_and_taken_on_a_gpu(machine: Any) -> None:
    machine("cuda")
    with pytest.raises(UserError, match=r"device\.precision=16-mixed: .*bf16-mixed"):
        choose(replace(AUTO, precision="16-mixed"), FEW)
    assert choose(replace(AUTO, name="cuda", precision="16-mixed"), FEW).precision == "16-mixed"


@pytest.mark.parametrize(
    ("kind", "asked", "channels_last"),
    [
        ("cpu", "auto", True),
        ("cuda", "auto", True),
        ("mps", "auto", False),
        ("cpu", "contiguous", False),
        ("mps", "channels_last", True),
    ],
)
def test_the_layout_goes_by_the_hardware_unless_asked_for(
    machine: Any, kind: str, asked: str, channels_last: bool
) -> None:
    machine(kind)
    assert choose(replace(AUTO, name=kind, memory_format=asked), FEW).channels_last is channels_last


def test_the_number_of_threads_is_set_where_asked_for(machine: Any) -> None:
    machine()
    assert choose(replace(AUTO, threads=1), FEW).threads == 1
    assert torch.get_num_threads() == 1
    assert choose(AUTO, FEW).threads == 1


@pytest.mark.parametrize(("kind", "accelerator"), [("cpu", "cpu"), ("cuda", "gpu"), ("mps", "mps")])
def test_lightning_hears_its_own_word_for_the_device(kind: str, accelerator: str) -> None:
    assert Device(kind, "32", True, 1, "x").accelerator == accelerator


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (Device("cpu", "32", True, 2, "A CPU"), "cpu (A CPU, 2 threads), precision 32, channels last"),
        (Device("cpu", "32", False, 1, "A CPU"), "cpu (A CPU, 1 thread), precision 32, contiguous"),
        (Device("cuda", "bf16-mixed", True, 2, "A GPU"), "cuda (A GPU), precision bf16-mixed, channels last"),
    ],
)
def test_a_device_says_what_it_is(device: Device, said: str) -> None:
    assert str(device) == said


def test_this_machine_has_a_name_and_a_core() -> None:
    assert devices.hardware("cpu").strip()
    assert cores.cores() >= 1
    assert devices.cpu_has_bf16() in (True, False)


@pytest.mark.parametrize(
    ("share", "threads"), [("max 100000", 4), ("200000 100000", 2), ("50000 100000", 1), ("900000 100000", 4)]
)
def test_a_container_s_share_of_the_processor_bounds_the_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, share: str, threads: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{share}\n")
    monkeypatch.setattr(cores, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda process: set(range(4)), raising=False)
    monkeypatch.setattr(devices, "THREADS", 64)
    asked: list[int] = []
    monkeypatch.setattr(devices.torch, "set_num_threads", asked.append)
    choose(replace(AUTO, name="cpu"), FEW)
    assert asked == [threads]
