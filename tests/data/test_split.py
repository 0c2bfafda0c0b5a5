"""Validation comes out of the training images, class by class."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvision.core.errors import UserError
from smallvision.data.dataset import stratified_split


@st.composite
def labels_and_size(draw: st.DrawFn) -> tuple[torch.Tensor, int]:
    labels = draw(st.lists(st.integers(0, 6), min_size=1, max_size=120))
    return torch.tensor(labels), draw(st.integers(0, len(labels) - 1))


@settings(deadline=None, max_examples=100)
@given(case=labels_and_size(), seed=st.integers(0, 2**32 - 1))
def test_every_split_is_exact_disjoint_sorted_and_fair_to_each_class(case: tuple[torch.Tensor, int], seed: int) -> None:
    labels, size = case
    train, val = stratified_split(labels, size, seed)
    assert len(val) == size
    assert sorted([*train.tolist(), *val.tolist()]) == list(range(len(labels)))
    assert train.tolist() == sorted(train.tolist())
    assert val.tolist() == sorted(val.tolist())
    share = labels.bincount().double() * size / len(labels)
    assert (labels[val].bincount(minlength=len(share)) - share).abs().max() < 1


@settings(deadline=None, max_examples=25)
@given(case=labels_and_size(), seed=st.integers(0, 2**32 - 1))
def test_the_split_depends_on_the_seed_and_on_nothing_else(case: tuple[torch.Tensor, int], seed: int) -> None:
    first = stratified_split(*case, seed)
    torch.rand(1)
    again = stratified_split(*case, seed)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_another_seed_holds_out_other_images() -> None:
    labels = torch.arange(200) % 10
    assert stratified_split(labels, 50, 0)[1].tolist() != stratified_split(labels, 50, 1)[1].tolist()


def test_even_shares_come_out_even() -> None:
    labels = torch.arange(200) % 10
    assert labels[stratified_split(labels, 50, 0)[1]].bincount().tolist() == [5] * 10


def test_a_validation_part_of_nothing_leaves_all_to_training() -> None:
    train, val = stratified_split(torch.tensor([3, 1, 1]), 0, 0)
    assert train.tolist() == [0, 1, 2]
    assert len(val) == 0


@pytest.mark.parametrize("size", [3, 4, 5000])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=rf"data\.val_size={size}: .*3 training images; use a value below 3"):
        stratified_split(torch.tensor([0, 1, 1]), size, 0)
