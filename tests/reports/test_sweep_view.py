"""A sweep's trials in order, for people and for programs."""

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from smallvision.reports.formatting import spread
from smallvision.reports.pages import sweep_page
from smallvision.reports.sweep_view import SweepView, TrialView

NAN = math.nan


def trial(number: int, state: str = "done", *values: float, reached: float | None = None, **more: Any) -> TrialView:
    """One that searched a learning rate; ``values``: of seeds 0, 1, ...; ``reached``: in its second epoch."""
    given: dict[str, Any] = {
        "params": {"optimizer.lr": f"0.{number}"},
        "values": dict(enumerate(values)),
        "curves": {} if reached is None else {0: {1: 0.0, 2: reached}},
    }
    return TrialView(number, state, **(given | more))


def sweep(*trials: TrialView, **more: Any) -> SweepView:
    given: dict[str, Any] = {
        "name": "tried", "directory": Path("outputs/tried"), "method": "random", "metric": "val/acc",
        "maximize": True, "seeds": [0, 1, 2], "space": {"optimizer.lr": "interval(0, 1)"}, "fixed": [],
        "planned": len(trials), "epochs": 2, "trials": list(trials),
    }  # fmt: skip
    return SweepView(**(given | more))


def order(view: SweepView) -> list[tuple[int | None, int]]:
    rows = csv.DictReader(io.StringIO(view.as_csv()))
    return [(int(row["rank"]) if row["rank"] else None, int(row["trial"])) for row in rows]


def printed(view: SweepView, limit: int | None = None, width: int = 160) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(view.table(limit))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_best_comes_first_and_equals_in_their_order() -> None:
    view = sweep(trial(0, "done", 0.5), trial(1, "done", 0.9), trial(2, "done", 0.7), trial(3, "done", 0.9))
    assert order(view) == [(1, 1), (2, 3), (3, 2), (4, 0)]


def test_trials_that_were_cut_short_are_marked_and_come_after_whole_ones() -> None:
    view = sweep(trial(0, "done", 0.9, cut_short="trainer.limit_val_batches=1"), trial(1, "done", 0.5))
    assert order(view) == [(1, 1), (2, 0)]
    assert "cut short" in printed(view)
    assert "cut short by trainer.limit_val_batches=1" in view.as_csv()
    assert "<strong>Cut short.</strong>" in sweep_page(view)


def test_where_less_is_better_the_least_comes_first() -> None:
    trials = [trial(0, "done", 0.5), trial(1, "done", 0.9), trial(2, "done", 0.2)]
    assert order(sweep(*trials, maximize=False)) == [(1, 2), (2, 0), (3, 1)]


def test_trials_without_a_rank_follow_state_by_state_and_by_how_far_they_got() -> None:
    view = sweep(
        trial(0, "waiting"), trial(1, "failed", reached=0.99), trial(2, "pruned", reached=0.2),
        trial(3, "pruned", reached=0.6), trial(4, "pruned"), trial(5, "interrupted", reached=0.1),
        trial(6, "running", reached=0.3), trial(7, "done", NAN), trial(8, "done", 0.1), trial(9, "failed"),
        trial(10, "done"),
    )  # fmt: skip
    assert order(view) == [(1, 8), *((None, number) for number in (7, 10, 6, 5, 3, 2, 4, 1, 9, 0))]


def test_a_trial_has_an_interval_for_its_mean_over_seeds() -> None:
    one = trial(4, "done", 1.0, 2.0, 3.0, reached=2.5)
    half = 4.302653 / math.sqrt(3)  # Student's t of 2 degrees of freedom
    assert (one.value, one.sample.deviation, one.epochs) == (2.0, 1.0, 2)
    assert one.sample.interval == pytest.approx((2 - half, 2 + half), abs=1e-5)
    assert sweep(one).best_epoch(one) == 3.0


@pytest.mark.parametrize(("values", "deviation"), [((), None), ((0.5,), None), ((0.5, NAN), None), ((0.5, 0.5), 0.0)])
def test_too_few_values_have_no_interval(values: tuple[float, ...], deviation: float | None) -> None:
    one = trial(0, "done", *values)
    assert (one.sample.deviation, one.sample.interval, spread(one.sample)) == (deviation, None, "")


def test_no_interval_of_an_accuracy_leaves_0_to_1() -> None:
    for values, text in (((0.1, 0.5, 0.6), "0.0000 to 1.0000"), ((0.5, 0.51, 0.52), "± 0.025"), ((1, 1, 1), "± 0")):
        assert spread(trial(0, "done", *values, fraction=True).sample) == text
    assert spread(trial(0, "done", 0.1, 0.5, 0.6).sample) == "± 0.66"


def test_the_short_reason_is_its_first_line() -> None:
    assert trial(0, "failed", reason="\nno memory left\n  at step 3\n").short_reason == "no memory left"


def test_the_csv_can_be_read_back() -> None:
    runs = {0: Path("outputs/a, b"), 1: Path("outputs/c")}
    view = sweep(
        trial(0, "done", 0.1, 0.3, 0.2, runs=runs, seconds=2.5), trial(1, "failed", reason='no "memory", left')
    )
    rows = list(csv.DictReader(io.StringIO(view.as_csv())))
    assert list(rows[0]) == [
        "rank", "trial", "state", "val/acc", "std", "n", "low", "high", "optimizer.lr", "seconds", "run",
        "reason",
    ]  # fmt: skip
    done = view.trials[0]
    low, high = done.sample.interval or (None, None)
    expected = {"val/acc": done.value, "std": done.sample.deviation, "low": low, "high": high}
    assert {name: float(rows[0][name]) for name in expected} == expected
    assert float(rows[0]["seconds"]) == 2.5
    assert (rows[0]["run"], rows[0]["optimizer.lr"], rows[0]["n"]) == ("outputs/a, b;outputs/c", "0.0", "3")
    assert (rows[1]["rank"], rows[1]["val/acc"], rows[1]["reason"]) == ("", "", 'no "memory", left')


def test_the_csv_of_no_trials_is_its_heading() -> None:
    assert sweep().as_csv().count("\n") == 1


def test_control_characters_are_shown_and_not_obeyed() -> None:
    hostile = trial(0, "failed", params={"optimizer.lr": "\x1b[2J"}, reason="\x1b]0;x\x07")
    for text in (sweep(hostile).as_csv(), printed(sweep(hostile))):
        assert "\x1b" not in text
        assert "\\x1b[2J" in text


def test_the_table_takes_no_markup_from_values() -> None:
    assert "[red]x[/red]" in printed(sweep(trial(0, params={"optimizer.lr": "[red]x[/red]"})))


def test_the_table_says_how_many_trials_it_leaves_out() -> None:
    text = printed(sweep(*(trial(number, "done", number / 100) for number in range(30))), limit=10)
    assert "0.2900" in text
    assert "0.0500" not in text
    assert "20 more in leaderboard.csv" in text


def test_the_table_names_a_stand_in() -> None:
    assert "stand-in for mnist" in printed(sweep(trial(0, "done", 0.5), stand_in_for="mnist"))


def test_one_seed_needs_no_columns_of_spread() -> None:
    assert "95 %" in printed(sweep(trial(0, "done", 0.5, 0.6)))
    assert "95 %" not in printed(sweep(trial(0, "done", 0.5)))


def test_many_searched_keys_share_a_column() -> None:
    params = {"optimizer.lr": "0.1", "data.batch_size": "64", "model": "linear", "seed": "1"}
    text = printed(sweep(trial(0, "done", 0.5, params=params), space=dict.fromkeys(params, "")), width=100)
    assert "lr=0.1 batch_size=64 model=linear seed=1" in text
