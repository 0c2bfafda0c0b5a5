"""Batches by index: every image once, from any position, on any number of processes."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvision.data.augmentation import Augmentation
from smallvision.data.loader import BatchLoader

MANY = 60
# Image k holds nothing but ks, and label k is k: a batch shows which images it took.
IMAGES = torch.arange(MANY, dtype=torch.uint8).view(MANY, 1, 1, 1).expand(MANY, 1, 2, 3).contiguous()
LABELS = torch.arange(MANY)


def loader(count: int, batch_size: int, **choices: Any) -> BatchLoader:
    return BatchLoader(IMAGES, LABELS, torch.arange(count), batch_size=batch_size, **choices)


def taken(loader: BatchLoader) -> list[list[int]]:
    """The labels of each batch to the end of the epoch, after a look at the images."""
    batches = []
    for images, labels in loader:
        assert images.dtype == torch.uint8
        assert images.shape == (len(labels), 1, 2, 3)
        assert images[:, 0, 0, 0].tolist() == labels.tolist()
        batches.append(labels.tolist())
    return batches


counts, batch_sizes, seeds = st.integers(0, MANY), st.integers(1, 70), st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=80)
@given(count=counts, batch_size=batch_sizes, shuffle=st.booleans(), drop_last=st.booleans(), seed=seeds)
def test_an_epoch_takes_every_image_exactly_once(
    count: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int
) -> None:
    one = loader(count, batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed)
    batches = taken(one)
    assert len(batches) == len(one)
    together = [label for batch in batches for label in batch]
    assert len(set(together)) == len(together) == (count - count % batch_size if drop_last else count)
    assert set(together) <= set(range(count))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(batches)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_batches_of_nothing_of_one_and_odd_ones(count: int) -> None:
    assert [len(batch) for batch in taken(loader(count, 3))] == {0: [], 1: [1], 7: [3, 3, 1]}[count]
    assert [len(batch) for batch in taken(loader(count, 1))] == [1] * count


def test_fewer_images_than_a_batch_make_one_small_batch_or_none() -> None:
    assert [len(batch) for batch in taken(loader(5, 64, shuffle=True))] == [5]
    assert taken(loader(5, 64, shuffle=True, drop_last=True)) == []


def test_only_the_chosen_indices_are_taken_in_their_own_order() -> None:
    indices = torch.tensor([9, 2, 40])
    assert taken(BatchLoader(IMAGES, LABELS, indices, batch_size=2)) == [[9, 2], [40]]


def test_without_shuffle_every_iteration_is_the_same_even_after_one_broken_off() -> None:
    one = loader(10, 4)
    next(iter(one))
    assert taken(one) == taken(one) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_order_is_another_in_each_epoch_and_for_each_seed_and_repeats_by_name() -> None:
    one = loader(30, 10, shuffle=True, seed=4)
    first, second = taken(one), taken(one)
    assert first != second
    one.start_epoch(0)
    torch.rand(5)  # what else is drawn does not matter
    assert taken(one) == first
    assert taken(loader(30, 10, shuffle=True, seed=5)) != first


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(), count=st.integers(1, MANY), batch_size=batch_sizes, shuffle=st.booleans(),
    drop_last=st.booleans(), seed=seeds,
)  # fmt: skip
def test_a_loader_continued_from_its_state_gives_exactly_the_remaining_batches(
    data: st.DataObject, count: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int
) -> None:
    choices: dict[str, Any] = {"trains": True, "shuffle": shuffle, "drop_last": drop_last, "seed": seed}
    choices["augmentation"] = Augmentation(flip=True, shift=1, cutout=1)
    epochs = data.draw(st.integers(0, 2))
    whole, stopped = loader(count, batch_size, **choices), loader(count, batch_size, **choices)
    for one in (whole, stopped):
        for _ in range(epochs):
            list(one)
    done = data.draw(st.integers(0, len(whole)))
    iterator = iter(stopped)
    for _ in range(done):
        next(iterator)
    state = stopped.state_dict()
    assert state == {"epoch": epochs, "batch": done}

    continued = loader(count, batch_size, **choices)
    continued.load_state_dict(state)
    expected, found = list(whole)[done:], list(continued)
    assert len(found) == len(expected)
    for (images, labels), (same_images, same_labels) in zip(expected, found, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
    assert continued.state_dict() == {"epoch": epochs + 1, "batch": 0}


@settings(deadline=None, max_examples=60)
@given(
    count=counts, per_rank=st.integers(1, 12), world=st.integers(1, 4), trains=st.booleans(),
    shuffle=st.booleans(), seed=seeds,
)  # fmt: skip
def test_the_processes_together_see_what_one_alone_would(
    count: int, per_rank: int, world: int, trains: bool, shuffle: bool, seed: int
) -> None:
    choices: dict[str, Any] = {"trains": trains, "shuffle": trains and shuffle, "seed": seed}
    choices["augmentation"] = Augmentation(flip=True, shift=1, cutout=1) if trains else None
    alone = list(loader(count, per_rank * world, **choices))
    ranks = [list(loader(count, per_rank * world, rank=rank, world=world, **choices)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    for number, (images, labels) in enumerate(alone):
        if trains:  # what the last batch has beyond a multiple of the processes is left out
            whole = len(labels) // world * world
            images, labels = images[:whole], labels[:whole]
            if not whole:
                assert number == len(ranks[0])
                continue
            assert {len(batches[number][1]) for batches in ranks} == {whole // world}
        for rank, batches in enumerate(ranks):
            assert torch.equal(batches[number][0], images[rank::world])
            assert torch.equal(batches[number][1], labels[rank::world])


def test_augmentation_differs_from_batch_to_batch_and_from_epoch_to_epoch() -> None:
    ramp = torch.arange(99, dtype=torch.uint8).view(1, 1, 9, 11).expand(12, 1, 9, 11)
    one = BatchLoader(
        ramp, torch.zeros(12).long(), torch.arange(12), batch_size=6, shuffle=True,
        augmentation=Augmentation(shift=4),
    )  # fmt: skip
    seen = [images for _ in range(2) for images, _ in one]
    assert len({images.numpy().tobytes() for images in seen}) == 4


def test_the_images_in_store_are_never_changed() -> None:
    before = IMAGES.clone()
    list(loader(MANY, 7, shuffle=True, augmentation=Augmentation(flip=True, shift=1, cutout=2)))
    assert torch.equal(IMAGES, before)


# Mirrored in every other epoch ---------------------------------------------------------------------------


ARROWS = torch.tensor([[0, 255]], dtype=torch.uint8).expand(MANY, 1, 1, 2).contiguous()


def arrows(batch_size: int = 7, indices: torch.Tensor | None = None, **choices: Any) -> BatchLoader:
    """Of images that show whether they are mirrored."""
    choices = {"shuffle": True, "augmentation": Augmentation(flip="alternating"), **choices}
    return BatchLoader(
        ARROWS, LABELS, torch.arange(MANY) if indices is None else indices, batch_size=batch_size, **choices
    )


def mirrored(loader: BatchLoader) -> dict[int, bool]:
    """To the end of the epoch, by the number of the image."""
    return {
        int(label): bool(image[0, 0, 0] == 255)
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_an_image_is_mirrored_in_exactly_one_of_any_two_epochs_in_a_row(seed: int, batch_size: int) -> None:
    one = arrows(batch_size, seed=seed)
    epochs = [mirrored(one) for _ in range(5)]
    for before, after in pairwise(epochs):
        assert all(before[image] != after[image] for image in range(MANY))
    one.start_epoch(98)
    assert mirrored(one) == epochs[0]
    assert mirrored(one) == epochs[1]


def test_about_half_of_the_images_begin_mirrored_and_others_for_another_seed() -> None:
    starts = [mirrored(arrows(seed=seed)) for seed in range(20)]
    assert all(10 < sum(start.values()) < 50 for start in starts)
    assert 530 < sum(sum(start.values()) for start in starts) < 670
    assert len({tuple(start[image] for image in range(MANY)) for start in starts}) == 20


def test_whether_an_image_is_mirrored_is_its_own_affair() -> None:
    """Not its batch's, nor that of the other images that are trained on."""
    whole, part = mirrored(arrows(seed=3)), torch.arange(50, 4, -3)
    for few in (arrows(4, part, seed=3), arrows(5, part, seed=3, drop_last=True)):
        found = mirrored(few)
        assert found == {image: whole[image] for image in found}
        assert len(found) >= 15


@settings(deadline=None, max_examples=40)
@given(batch_size=st.integers(1, 30), epoch=st.integers(0, 3), data=st.data())
def test_a_loader_continued_in_mid_epoch_mirrors_the_same_images(
    batch_size: int, epoch: int, data: st.DataObject
) -> None:
    augmentation = Augmentation(flip="alternating", rotate=20, scale=0.2)
    whole = arrows(batch_size, seed=8, augmentation=augmentation)
    whole.start_epoch(epoch)
    done = data.draw(st.integers(0, len(whole)))
    continued = arrows(batch_size, seed=8, augmentation=augmentation)
    continued.load_state_dict({"epoch": epoch, "batch": done})
    expected = list(whole)[done:]
    found = list(continued)
    assert len(found) == len(expected)
    for (images, labels), (same_images, same_labels) in zip(expected, found, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_together_mirror_what_one_alone_would(world: int) -> None:
    alone = mirrored(arrows(12, seed=2))
    ranks = [mirrored(arrows(12, seed=2, rank=rank, world=world)) for rank in range(world)]
    together = {image: way for rank in ranks for image, way in rank.items()}
    assert sum(map(len, ranks)) == len(together) == MANY
    assert together == alone


def test_to_mirror_by_turns_leaves_the_other_draws_as_they_were() -> None:
    ramp = torch.arange(99, dtype=torch.uint8).view(1, 1, 9, 11).expand(12, 1, 9, 11)
    by_turns, by_chance, never = (
        list(
            BatchLoader(
                ramp, torch.arange(12), torch.arange(12), batch_size=6, shuffle=True,
                augmentation=Augmentation(flip, cutout=3, fill=(200,)),
            )
        )
        for flip in ("alternating", True, False)
    )  # fmt: skip
    for (images, _), (others, _), (plain, _) in zip(by_turns, by_chance, never, strict=True):
        assert torch.equal(images == 200, plain == 200)
        assert torch.equal(others == 200, plain == 200)
    assert not all(torch.equal(one[0], other[0]) for one, other in zip(by_turns, by_chance, strict=True))
