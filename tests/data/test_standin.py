"""What a run goes on with when a named data set cannot be had."""

import pytest

from smallvision.core.errors import UserError
from smallvision.data.download import Offline
from smallvision.data.standard import stand_in


@pytest.mark.parametrize(
    ("named", "shape", "drawn_as"),
    [
        ("mnist", (1, 28, 28), "digits"),
        ("fashion_mnist", (1, 28, 28), "shapes"),
        ("cifar10", (3, 32, 32), "shapes"),
    ],
)
def test_a_stand_in_has_the_real_images_shape_and_says_what_it_is(
    named: str, shape: tuple[int, int, int], drawn_as: str
) -> None:
    data = stand_in(named, "stand_in", Offline("no network: down"), "its files in the attic")
    assert data.shape == shape
    assert len(data.classes) == 10
    assert data.name == drawn_as
    assert data.stand_in_for == named
    assert data.source.startswith(f"stand-in for {named} (no network: down): ")


def test_a_stand_in_can_be_refused_with_the_reason_and_the_mend() -> None:
    with pytest.raises(UserError) as refused:
        stand_in("mnist", "error", Offline("no network: down"), "its files in the attic")
    for words in ("data=mnist", "no network: down", "put its files in the attic", "data.offline=stand_in"):
        assert words in str(refused.value)
