"""Whatever a walk does, it can be drawn."""

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smallvision.tasks.descent.functions import FUNCTIONS
from smallvision.tasks.descent.landscape import until_far
from smallvision.tasks.descent.picture import Picture, words
from smallvision.tasks.descent.walk import Walk

HUGE = st.floats(-1e300, 1e300)
SMALL = st.floats(-1, 1)


def path(name: str, *places: tuple[float, ...], cut: bool = False) -> Walk:
    function = FUNCTIONS[name]
    values = [function.at(place) for place in places]
    return Walk(function, "made", list(places), values, [0.1] * (len(places) - 1), cut)


@given(SMALL, SMALL, st.lists(st.tuples(SMALL | HUGE, SMALL | HUGE), max_size=6))
def test_what_is_drawn_is_the_walk_up_to_where_it_leaves_for_good(
    x: float, y: float, more: list[tuple[float, float]]
) -> None:
    points = [(x, y), *more]
    drawn = until_far(points, ((-1, 1), (-1, 1)))
    assert drawn[:-1] == points[: len(drawn) - 1]
    assert all(max(map(abs, point)) <= 10 * (1 + 1e-9) for point in drawn)
    if drawn != points:
        assert max(map(abs, drawn[-1])) == pytest.approx(10)
        assert max(map(abs, points[len(drawn) - 1])) > 10


def test_a_point_far_away_is_moved_in_along_its_line() -> None:
    assert until_far([(0, 0), (30, 15), (0, 0)], ((-1, 1), (-1, 1))) == [(0, 0), (10, 5)]


@pytest.mark.parametrize(
    "walk",
    [
        path("ravine", (-9, 2), (1e100, -1e120), cut=True),
        path("ravine", (0, 0), (0, 0)),
        path("himmelblau", (1000, -1000), (-1000, 1000)),
        path("parabola", (10.0,), (1e150,), (1.0,)),
        path("parabola", (-1.0,)),
    ],
    ids=["far away", "at the minimum", "from far away", "there and back", "no step"],
)
def test_every_kind_of_walk_is_a_picture(walk: Walk, tmp_path: Path) -> None:
    Picture([(walk.function, 5, [walk, walk])], "none").save(tmp_path / "walk.png")
    with Image.open(tmp_path / "walk.png") as picture:
        assert picture.size == (1500, 576)
        assert len(picture.convert("RGB").getcolors(1_000_000) or []) > 50


def test_the_lines_grow_as_the_animation_runs(tmp_path: Path) -> None:
    picture = Picture([(FUNCTIONS["parabola"], 2, [path("parabola", (10.0,), (3.0,), (-1.0,))])], "cosine")
    (track,) = picture.tracks
    for share, seen in ((0, 1), (0.5, 2), (1, 3)):
        picture.upto(share)
        assert [len(line.get_xdata()) for line, _ in track.lines] == [seen] * 3
    picture.animate(tmp_path / "walk.gif")
    with Image.open(tmp_path / "walk.gif") as moving:
        assert moving.n_frames == 3


def test_the_legend_says_how_a_walk_ended() -> None:
    assert words(path("parabola", (10.0,), (-1.0,))) == "made\nthere after step 1"
    assert words(path("parabola", (10.0,), (1.2,))) == "made\n20 % of the way left"
    assert words(path("parabola", (10.0,), (90.0,))) == "made\ndiverged after step 1"
    assert words(path("parabola", (-1.0,), (-0.5,))) == "made\nleft the minimum"
    assert math.isinf(path("parabola", (-1.0,), (-0.5,)).left[-1])
