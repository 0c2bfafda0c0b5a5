"""Every trajectory can be plotted, however large its numbers."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smallvision.tasks.descent.plot import DescentPlot, clip_to_view
from smallvision.tasks.descent.trajectory import FUNCTIONS, Trajectory

HUGE = st.floats(-1e300, 1e300)
SMALL = st.floats(-1, 1)
UNIT_VIEW = ((-1, 1), (-1, 1))


def trajectory(name: str, *points: tuple[float, ...], cut: bool = False) -> Trajectory:
    function, steps = FUNCTIONS[name], len(points) - 1
    values = [function.at(point) for point in points]
    return Trajectory(function, "made", steps + cut, list(points), values, [0.1] * steps)


@given(SMALL, SMALL, st.lists(st.tuples(SMALL | HUGE, SMALL | HUGE), max_size=6))
@settings(max_examples=50)
def test_a_line_is_plotted_up_to_the_point_where_it_leaves_the_view_far_behind(
    x: float, y: float, more: list[tuple[float, float]]
) -> None:
    points = [(x, y), *more]
    kept = clip_to_view(points, UNIT_VIEW).tolist()
    assert kept[:-1] == [[*point] for point in points[: len(kept) - 1]]
    assert np.abs(kept).max() <= 10 * (1 + 1e-9)
    if kept != [[*point] for point in points]:
        assert np.abs(kept[-1]).max() == pytest.approx(10)
        assert np.abs(points[len(kept) - 1]).max() > 10


def test_a_point_far_away_is_moved_in_along_its_line() -> None:
    assert clip_to_view([(0, 0), (30, 15), (0, 0)], UNIT_VIEW).tolist() == [[0, 0], [10, 5]]


@pytest.mark.parametrize(
    "row",
    [
        [trajectory("ravine", (-9, 2), (1e100, -1e120), cut=True), trajectory("ravine", (-9, 2))],
        [trajectory("ravine", (0, 0), (0, 0))],
        [trajectory("himmelblau", (1000, -1000), (-1000, 1000))],
        [trajectory("parabola", (10.0,), (1e150,), (1.0,))],
        [trajectory("parabola", (-1.0,), cut=True)],
    ],
    ids=["overflow", "start at the minimum", "start far away", "far away and back", "no step"],
)
def test_every_kind_of_trajectory_can_be_plotted(row: list[Trajectory], tmp_path: Path) -> None:
    DescentPlot([row], "none").figure.savefig(tmp_path / "descent.png")
    with Image.open(tmp_path / "descent.png") as image:
        assert image.size == (1500, 576)
        assert len(image.convert("RGB").getcolors(1_000_000) or []) > 50


def test_the_legend_reports_how_each_trajectory_ended() -> None:
    plot = DescentPlot([[trajectory("parabola", (10.0,), (1.2,)), trajectory("parabola", (10.0,), (90.0,))]], "none")
    shown = [text.get_text() for text in plot.figure.axes[1].get_legend().get_texts()]
    assert shown == ["made\n20 % of the distance remains", "made\ndiverged after step 1", "start", "minimum"]


def test_an_animation_adds_step_after_step(tmp_path: Path) -> None:
    plot = DescentPlot([[trajectory("parabola", (10.0,), (3.0,), (-1.0,))]], "cosine")
    for fraction, points in ((0, 1), (0.5, 2), (1, 3)):
        plot.show_until(fraction)
        assert [len(line.get_xdata()) for line, _, _ in plot.lines] == [points] * 2
        assert [float(head.get_xdata()[0]) for head, _, _ in plot.heads] == [(10.0, 3.0, -1.0)[points - 1]]
    plot.animate(tmp_path / "descent.gif")
    with Image.open(tmp_path / "descent.gif") as animation:
        assert animation.n_frames == 3
        assert animation.info["duration"] == 100
        animation.seek(2)
        assert animation.info["duration"] == 1500
