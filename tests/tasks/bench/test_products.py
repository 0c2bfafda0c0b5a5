"""Products are timed on every device that is here."""

import torch

from smallvision.tasks.bench import products


def test_matrix_products_have_a_rate_for_every_size(monkeypatch):
    monkeypatch.setattr(products, "SIZES", (8, 64))
    monkeypatch.setattr(products, "SECONDS", 0.01)
    rates = products.matrix_products(torch.device("cpu"), torch.float32)
    assert list(rates) == [8, 64]
    assert min(rates.values()) > 0


def test_the_median_of_a_call_counts_the_call_and_not_the_warm_up(monkeypatch):
    calls = []
    monkeypatch.setattr(products, "SECONDS", 0.0)
    products.timed(torch.device("cpu"), lambda: calls.append(1))
    assert len(calls) == 1 + 1


def test_the_processor_is_always_among_the_devices():
    assert torch.device("cpu") in products.devices()


def test_the_tutorials_products_take_time(monkeypatch):
    monkeypatch.setattr(products, "SECONDS", 0.01)
    monkeypatch.setattr(products, "LARGE", 200)
    assert products.oblong(torch.device("cpu")) > 0
    assert products.large(torch.device("cpu")) > 0
