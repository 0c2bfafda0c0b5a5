"""What a Ray that fails is asked again, and what is not. On a real Ray: tests/cluster/test_ray.py."""

from types import SimpleNamespace

import pytest

from smallvision.sweeps import ray as sweeps_ray

DIED = "Initialization failure from server: Starting Ray client server failed. See ray_client_server_23000.err"


@pytest.mark.parametrize(
    ("error", "failures", "asked", "connects"),
    [
        (ConnectionAbortedError(DIED), 0, 1, True),
        (ConnectionAbortedError(DIED), 2, 3, True),
        (ConnectionAbortedError(DIED), 9, 3, False),
        (ConnectionAbortedError("Initialization failure from server: other version"), 1, 1, False),
        (ConnectionError("ray client connection timeout"), 1, 1, False),
    ],
)
def test_only_a_dead_process_for_this_client_is_asked_for_again(monkeypatch, error, failures, asked, connects):
    calls = []

    def init(address, **settings):
        calls.append(address)
        if len(calls) <= failures:
            raise error

    monkeypatch.setattr(sweeps_ray, "ray", SimpleNamespace(init=init))
    if connects:
        sweeps_ray.init("ray://127.0.0.1:10001")
    else:
        with pytest.raises(type(error)):
            sweeps_ray.init("ray://127.0.0.1:10001")
    assert len(calls) == asked
