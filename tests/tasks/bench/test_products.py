"""Products are timed on every device of the machine."""

import torch

from smallvision.tasks.bench import products


def test_all_products_take_time_at_every_size(monkeypatch):
    monkeypatch.setattr(products, "SIZES", (8, 64))
    monkeypatch.setattr(products, "SECONDS", 0.001)
    monkeypatch.setattr(products, "LARGE", 200)
    found = products.time_products(torch.device("cpu"), with_large=True)
    assert {dtype: [*rates] for dtype, rates in found.gflops.items()} == {"float32": [8, 64], "bfloat16": [8, 64]}
    assert all(rate > 0 for rates in found.gflops.values() for rate in rates.values())
    assert min(found.elementwise_ms, found.oblong_ms, found.large_s) > 0


def test_a_product_is_timed_with_all_threads_that_torch_uses(monkeypatch):
    used = []

    class TimerOfThreads(products.Timer):
        def blocked_autorange(self, **options):
            used.append(self._task_spec.num_threads)
            return super().blocked_autorange(**options)

    monkeypatch.setattr(products, "Timer", TimerOfThreads)
    monkeypatch.setattr(products, "SECONDS", 0.001)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert products.seconds("a @ b", torch.ones(4, 4), torch.ones(4, 4)) > 0
    assert used == [2]


def test_the_cpu_is_always_among_the_devices():
    assert torch.device("cpu") in products.devices()
