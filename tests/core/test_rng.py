"""Randomness has a key, not a history."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvision.core.rng import seed_global, seeded, stream, stream_seed

names = st.tuples(st.integers(0, 2**32 - 1), st.sampled_from(["split", "order", "augmentation"]), st.integers(0, 10**6))


@settings(deadline=None, max_examples=200)
@given(one=names, other=names)
def test_keys_are_equal_just_where_names_are(one: tuple[int, str, int], other: tuple[int, str, int]) -> None:
    assert (stream_seed(*one) == stream_seed(*other)) == (one == other)
    assert 0 <= stream_seed(*one) < 2**63


def test_keys_are_the_same_on_every_machine_and_in_every_year() -> None:
    assert stream_seed(0, "split") == 8_002_339_936_503_433_115
    assert stream_seed(42, "augmentation", 3, 17) == 2_199_102_957_655_692_599


@pytest.mark.parametrize("counters", [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (11,), (1, 1)])
def test_each_counter_names_a_stream_of_its_own(counters: tuple[int, ...]) -> None:
    others = {(), (0,), (1,), (0, 0), (0, 1), (1, 0), (11,), (1, 1)} - {counters}
    assert stream_seed(5, "order", *counters) not in {stream_seed(5, "order", *other) for other in others}


def test_a_stream_starts_anew_at_every_asking_and_disturbs_nothing() -> None:
    before = torch.get_rng_state()
    first = torch.rand(4, generator=stream(1, "order", 2))
    torch.manual_seed(99)
    again = torch.rand(4, generator=stream(1, "order", 2))
    assert torch.equal(first, again)
    torch.set_rng_state(before)
    torch.rand(4, generator=stream(1, "order", 3))
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_of_other_names_draw_other_numbers() -> None:
    draws = [
        torch.rand(4, generator=stream(*name)).tolist()
        for name in [(1, "order", 2), (1, "order", 3), (1, "split", 2), (2, "order", 2)]
    ]
    assert len({tuple(numbers) for numbers in draws}) == 4


def test_a_keyed_block_draws_its_own_numbers_and_leaves_the_generator_as_it_was() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with seeded(7, "initialisation"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(7, "initialisation"):
        assert torch.equal(torch.rand(3), inside)


def test_keyed_blocks_nest() -> None:
    with seeded(1, "outer"):
        expected = torch.rand(4)
    with seeded(1, "outer"):
        start = torch.rand(2)
        with seeded(2, "inner"):
            torch.rand(5)
        assert torch.equal(torch.cat([start, torch.rand(2)]), expected)


def test_a_keyed_block_that_fails_leaves_the_generator_as_it_was_too() -> None:
    before = torch.get_rng_state()
    with pytest.raises(KeyError), seeded(7, "initialisation"):
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_key_global_decides_what_dropout_leaves_out() -> None:
    def mask(step: int) -> torch.Tensor:
        seed_global(torch.device("cpu"), 3, "dropout", 0, step)
        return torch.nn.functional.dropout(torch.ones(64))

    with seeded(0, "test"):  # leaves the generator as it was
        first = mask(5)
        assert not torch.equal(mask(6), first)
        assert torch.equal(mask(5), first)
