"""Loss and accuracy over an epoch, however it is cut into batches."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from smallvision.training.classifier import LossAndAccuracy


def epoch(count: int = 97, classes: int = 5) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(count, classes, generator=generator)
    return logits, torch.randint(classes, (count,), generator=generator)


def metrics() -> LossAndAccuracy:
    """With its sums in its state dict, as the training metrics of a Classifier."""
    made = LossAndAccuracy()
    made.persistent(True)
    return made


def feed(figures: LossAndAccuracy, logits: Tensor, labels: Tensor) -> None:
    figures.update(F.cross_entropy(logits, labels), logits, labels)


@settings(max_examples=30, deadline=None, database=None, derandomize=True)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=12))
def test_the_figures_are_the_direct_ones_for_any_batches(sizes: list[int]) -> None:
    logits, labels = epoch(max(sum(sizes), 1))
    figures, start = metrics(), 0
    for size in [*sizes, len(labels) - sum(sizes)]:
        feed(figures, logits[start : start + size], labels[start : start + size])
        start += size
    computed = figures.compute()
    assert computed["acc"].item() == (logits.argmax(1) == labels).sum().item() / len(labels)
    assert computed["loss"].item() == pytest.approx(F.cross_entropy(logits.double(), labels).item(), rel=1e-5)


def test_the_figures_are_float64_numbers_on_the_cpu() -> None:
    figures = metrics()
    feed(figures, *epoch())
    computed = figures.compute()
    assert {name: (value.dtype, value.device.type, value.shape) for name, value in computed.items()} == {
        "loss": (torch.float64, "cpu", ()),
        "acc": (torch.float64, "cpu", ()),
    }


def test_an_accuracy_is_not_rounded_to_float32() -> None:
    figures = metrics()
    logits = torch.tensor([[1.0, 0.0]]).repeat(3, 1)
    feed(figures, logits, torch.tensor([0, 1, 1]))
    assert figures.compute()["acc"].item() == 1 / 3


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_before_any_image_there_is_no_figure() -> None:
    computed = LossAndAccuracy().compute()
    assert math.isnan(computed["loss"])
    assert math.isnan(computed["acc"])


def test_an_empty_batch_changes_nothing() -> None:
    figures = metrics()
    feed(figures, *epoch())
    before = figures.state_dict()
    figures.update(torch.tensor(float("nan")), torch.zeros(0, 5), torch.zeros(0, dtype=torch.long))
    assert figures.state_dict() == before


def test_a_reset_forgets_everything() -> None:
    figures = metrics()
    feed(figures, *epoch())
    figures.reset()
    assert figures.state_dict()["count"].item() == 0
    feed(figures, *epoch(7))
    assert figures.state_dict()["count"].item() == 7


def test_an_epoch_that_goes_on_from_its_sums_ends_on_the_same_bits() -> None:
    logits, labels = epoch()
    whole, first, second = metrics(), metrics(), metrics()
    for start in range(0, 97, 10):
        feed(whole, logits[start : start + 10], labels[start : start + 10])
    for start in range(0, 50, 10):
        feed(first, logits[start : start + 10], labels[start : start + 10])
    feed(second, *epoch(11))  # what was there before does not count
    second.load_state_dict(first.state_dict())
    for start in range(50, 97, 10):
        feed(second, logits[start : start + 10], labels[start : start + 10])
    assert second.compute() == whole.compute()
    assert second.state_dict() == whole.state_dict()


def test_saved_sums_do_not_move_with_the_epoch() -> None:
    figures = metrics()
    feed(figures, *epoch(10))
    saved = figures.state_dict()
    feed(figures, *epoch(20))
    assert saved["count"].item() == 10
    assert figures.state_dict()["count"].item() == 30


def test_no_gradient_is_kept() -> None:
    logits, labels = epoch()
    logits.requires_grad_()
    figures = metrics()
    feed(figures, logits, labels)
    assert not any(value.requires_grad for value in figures.state_dict().values())


def test_labels_of_many_images_are_counted_exactly() -> None:
    figures = metrics()
    figures.load_state_dict({"loss": torch.tensor(0.0), "correct": torch.tensor(2**24), "count": torch.tensor(2**24)})
    feed(figures, torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    assert figures.state_dict()["correct"].item() == 2**24 + 1
