"""The first signal asks, the second stops; the memory that is left."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from smallvision.core import system
from smallvision.core.errors import Interrupted
from smallvision.core.system import StopRequest, available_memory


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    request = StopRequest()
    request.install()
    yield request
    for number, handler in before.items():
        signal.signal(number, handler)


def test_nothing_is_asked_before_a_signal(stop: StopRequest) -> None:
    assert stop.signal is None


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_first_signal_is_noted_and_said(stop: StopRequest, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    signal.raise_signal(signal.Signals[name])
    assert stop.signal == name
    out, said = capsys.readouterr()
    assert out == ""
    assert f"{name}: stopping after this step" in said


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_stops_at_once(stop: StopRequest, second: signal.Signals) -> None:
    signal.raise_signal(signal.SIGINT)
    stop.received -= 1  # second
    with pytest.raises(Interrupted):
        signal.raise_signal(second)
    assert stop.signal == "SIGINT"


def test_available_memory_is_what_the_kernel_says_and_at_most_the_containers_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(system, "MEMORY_LIMIT", tmp_path / "memory.max")
    everything = available_memory()
    assert everything > 2**20
    (tmp_path / "meminfo").write_text("MemTotal:  9999 kB\nMemAvailable:    1000 kB\n")
    assert available_memory() == 1_024_000
    for limit, expected in (("max", 1_024_000), ("5000", 5000)):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert available_memory() == expected
