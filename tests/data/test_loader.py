"""Batches by index: every image once an epoch, from any position, on any number of processes."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvision.data.loader import Augmentation, BatchLoader

COUNT = 60
# All pixels of image k are k, and so is its label: a batch shows which images it took.
IMAGES = torch.arange(COUNT, dtype=torch.uint8).view(COUNT, 1, 1, 1).expand(COUNT, 1, 2, 3).contiguous()
LABELS = torch.arange(COUNT)


def loader(count: int, batch_size: int, **options: Any) -> BatchLoader:
    return BatchLoader(IMAGES, LABELS, torch.arange(count), batch_size=batch_size, **options)


def taken(loader: BatchLoader) -> list[list[int]]:
    """The labels of each batch to the end of the epoch, which the images match."""
    batches = []
    for images, labels in loader:
        assert images.dtype == torch.uint8
        assert images.shape == (len(labels), 1, 2, 3)
        assert images[:, 0, 0, 0].tolist() == labels.tolist()
        batches.append(labels.tolist())
    return batches


counts, batch_sizes, seeds = st.integers(0, COUNT), st.integers(1, 70), st.integers(0, 2**32 - 1)


@settings(deadline=None, max_examples=50)
@given(count=counts, batch_size=batch_sizes, shuffle=st.booleans(), drop_last=st.booleans(), seed=seeds)
def test_an_epoch_takes_every_image_exactly_once(
    count: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int
) -> None:
    one = loader(count, batch_size, shuffle=shuffle, drop_last=drop_last, seed=seed)
    batches = taken(one)
    assert len(batches) == len(one)
    labels = [label for batch in batches for label in batch]
    assert len(set(labels)) == len(labels) == (count - count % batch_size if drop_last else count)
    assert set(labels) <= set(range(count))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(batches)


@pytest.mark.parametrize("count", [0, 1, 7])
def test_no_images_one_image_and_an_odd_number(count: int) -> None:
    assert [len(batch) for batch in taken(loader(count, 3))] == {0: [], 1: [1], 7: [3, 3, 1]}[count]
    assert [len(batch) for batch in taken(loader(count, 1))] == [1] * count


def test_fewer_images_than_a_batch_make_one_small_batch_or_none() -> None:
    assert [len(batch) for batch in taken(loader(5, 64, shuffle=True))] == [5]
    assert taken(loader(5, 64, shuffle=True, drop_last=True)) == []


def test_only_the_given_indices_are_taken_in_their_order() -> None:
    indices = torch.tensor([9, 2, 40])
    assert taken(BatchLoader(IMAGES, LABELS, indices, batch_size=2)) == [[9, 2], [40]]


def test_without_shuffle_every_iteration_is_the_same_even_after_one_was_interrupted() -> None:
    one = loader(10, 4)
    next(iter(one))
    assert taken(one) == taken(one) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_the_order_depends_on_the_epoch_and_the_seed_and_on_nothing_else() -> None:
    one = loader(30, 10, shuffle=True, seed=4)
    first, second = taken(one), taken(one)
    assert first != second
    one.start_epoch(0)
    torch.rand(5)  # other random numbers do not matter
    assert taken(one) == first
    assert taken(loader(30, 10, shuffle=True, seed=5)) != first


def test_set_epoch_keeps_a_position_within_that_epoch_and_starts_any_other() -> None:
    one = loader(30, 10, shuffle=True)
    one.load_state_dict({"epoch": 2, "batch": 1})
    one.sampler.set_epoch(2)
    assert one.state_dict() == {"epoch": 2, "batch": 1}
    one.sampler.set_epoch(3)
    assert one.state_dict() == {"epoch": 3, "batch": 0}


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(), count=st.integers(1, COUNT), batch_size=batch_sizes, shuffle=st.booleans(),
    drop_last=st.booleans(), seed=seeds,
)  # fmt: skip
def test_a_loader_continued_from_its_state_gives_exactly_the_remaining_batches(
    data: st.DataObject, count: int, batch_size: int, shuffle: bool, drop_last: bool, seed: int
) -> None:
    options: dict[str, Any] = {"training": True, "shuffle": shuffle, "drop_last": drop_last, "seed": seed}
    options["augmentation"] = Augmentation(flip=True, shift=1, cutout=1)
    epochs = data.draw(st.integers(0, 2))
    complete, stopped = loader(count, batch_size, **options), loader(count, batch_size, **options)
    for one in (complete, stopped):
        for _ in range(epochs):
            list(one)
    done = data.draw(st.integers(0, len(complete)))
    iterator = iter(stopped)
    for _ in range(done):
        next(iterator)
    state = stopped.state_dict()
    assert state == {"epoch": epochs, "batch": done}

    continued = loader(count, batch_size, **options)
    continued.load_state_dict(state)
    expected, found = list(complete)[done:], list(continued)
    assert len(found) == len(expected)
    for (images, labels), (same_images, same_labels) in zip(expected, found, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)
    assert continued.state_dict() == {"epoch": epochs + 1, "batch": 0}


@settings(deadline=None, max_examples=40)
@given(
    count=counts, per_rank=st.integers(1, 12), world_size=st.integers(1, 4), training=st.booleans(),
    shuffle=st.booleans(), seed=seeds,
)  # fmt: skip
def test_the_processes_together_see_what_one_alone_would(
    count: int, per_rank: int, world_size: int, training: bool, shuffle: bool, seed: int
) -> None:
    options: dict[str, Any] = {"training": training, "shuffle": training and shuffle, "seed": seed}
    options["augmentation"] = Augmentation(flip=True, shift=1, cutout=1) if training else None
    alone = list(loader(count, per_rank * world_size, **options))
    ranks = [
        list(loader(count, per_rank * world_size, rank=rank, world_size=world_size, **options))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    for number, (images, labels) in enumerate(alone):
        if training:  # the remainder of the last batch is dropped
            even = len(labels) // world_size * world_size
            images, labels = images[:even], labels[:even]
            if not even:
                assert number == len(ranks[0])
                continue
            assert {len(batches[number][1]) for batches in ranks} == {even // world_size}
        for rank, batches in enumerate(ranks):
            assert torch.equal(batches[number][0], images[rank::world_size])
            assert torch.equal(batches[number][1], labels[rank::world_size])


def test_augmentation_differs_from_batch_to_batch_and_from_epoch_to_epoch() -> None:
    ramp = torch.arange(99, dtype=torch.uint8).view(1, 1, 9, 11).expand(12, 1, 9, 11)
    one = BatchLoader(
        ramp, torch.zeros(12).long(), torch.arange(12), batch_size=6, shuffle=True,
        augmentation=Augmentation(shift=4),
    )  # fmt: skip
    seen = [images for _ in range(2) for images, _ in one]
    assert len({images.numpy().tobytes() for images in seen}) == 4


def test_the_images_of_the_data_set_are_never_changed() -> None:
    before = IMAGES.clone()
    list(loader(COUNT, 7, shuffle=True, augmentation=Augmentation(flip=True, shift=1, cutout=2)))
    assert torch.equal(IMAGES, before)


# Flipped in every other epoch ---------------------------------------------------------------------------


ARROWS = torch.tensor([[0, 255]], dtype=torch.uint8).expand(COUNT, 1, 1, 2).contiguous()


def arrows(batch_size: int = 7, indices: torch.Tensor | None = None, **options: Any) -> BatchLoader:
    """Of images that show whether they are flipped."""
    options = {"shuffle": True, "augmentation": Augmentation(flip="alternating"), **options}
    return BatchLoader(
        ARROWS, LABELS, torch.arange(COUNT) if indices is None else indices, batch_size=batch_size, **options
    )


def flipped(loader: BatchLoader) -> dict[int, bool]:
    """To the end of the epoch, by the number of the image."""
    return {
        int(label): bool(image[0, 0, 0] == 255)
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    }


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_an_image_is_flipped_in_exactly_one_of_any_two_epochs_in_a_row(seed: int, batch_size: int) -> None:
    one = arrows(batch_size, seed=seed)
    epochs = [flipped(one) for _ in range(5)]
    for before, after in pairwise(epochs):
        assert all(before[image] != after[image] for image in range(COUNT))
    one.start_epoch(98)
    assert flipped(one) == epochs[0]
    assert flipped(one) == epochs[1]


def test_about_half_of_the_images_begin_flipped_and_others_for_another_seed() -> None:
    starts = [flipped(arrows(seed=seed)) for seed in range(20)]
    assert all(10 < sum(start.values()) < 50 for start in starts)
    assert 530 < sum(sum(start.values()) for start in starts) < 670
    assert len({tuple(start[image] for image in range(COUNT)) for start in starts}) == 20


def test_whether_an_image_is_flipped_depends_on_itself_and_the_seed_alone() -> None:
    """Not on its batch, nor on which other images are trained on."""
    alone, part = flipped(arrows(seed=3)), torch.arange(50, 4, -3)
    for few in (arrows(4, part, seed=3), arrows(5, part, seed=3, drop_last=True)):
        found = flipped(few)
        assert found == {image: alone[image] for image in found}
        assert len(found) >= 15


@settings(deadline=None, max_examples=25)
@given(batch_size=st.integers(1, 30), epoch=st.integers(0, 3), data=st.data())
def test_a_loader_continued_in_mid_epoch_flips_the_same_images(
    batch_size: int, epoch: int, data: st.DataObject
) -> None:
    augmentation = Augmentation(flip="alternating", rotate=20, scale=0.2)
    complete = arrows(batch_size, seed=8, augmentation=augmentation)
    complete.start_epoch(epoch)
    done = data.draw(st.integers(0, len(complete)))
    continued = arrows(batch_size, seed=8, augmentation=augmentation)
    continued.load_state_dict({"epoch": epoch, "batch": done})
    expected = list(complete)[done:]
    found = list(continued)
    assert len(found) == len(expected)
    for (images, labels), (same_images, same_labels) in zip(expected, found, strict=True):
        assert torch.equal(images, same_images)
        assert torch.equal(labels, same_labels)


@pytest.mark.parametrize("world_size", [2, 3])
def test_processes_together_flip_what_one_alone_would(world_size: int) -> None:
    alone = flipped(arrows(12, seed=2))
    ranks = [flipped(arrows(12, seed=2, rank=rank, world_size=world_size)) for rank in range(world_size)]
    together = {image: way for rank in ranks for image, way in rank.items()}
    assert sum(map(len, ranks)) == len(together) == COUNT
    assert together == alone


def test_alternating_flips_leave_the_other_changes_as_they_were() -> None:
    ramp = torch.arange(99, dtype=torch.uint8).view(1, 1, 9, 11).expand(12, 1, 9, 11)
    alternating, random, never = (
        list(
            BatchLoader(
                ramp, torch.arange(12), torch.arange(12), batch_size=6, shuffle=True,
                augmentation=Augmentation(flip, cutout=3, fill=(200,)),
            )
        )
        for flip in ("alternating", True, False)
    )  # fmt: skip
    for (images, _), (others, _), (plain, _) in zip(alternating, random, never, strict=True):
        assert torch.equal(images == 200, plain == 200)
        assert torch.equal(others == 200, plain == 200)
    assert not all(torch.equal(one[0], other[0]) for one, other in zip(alternating, random, strict=True))
