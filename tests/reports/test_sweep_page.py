"""A sweep's page: self-contained, safe, and there whatever became of the sweep."""

import math
import re
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from helpers.outline import Outline
from helpers.sweeps import a_sweep, a_trial, usual_sweep
from matplotlib.figure import Figure

from smallvision.reports import importance, plots
from smallvision.reports.pages import sweep_page
from smallvision.reports.sweep_view import SweepView


def text_of(view: SweepView) -> str:
    return Outline(sweep_page(view)).text


@pytest.fixture(scope="module")
def usual() -> str:
    """The page of a sweep with trials of every state."""
    return sweep_page(usual_sweep())


ODD = {
    "nothing started": a_sweep(planned=5),
    "nothing planned": a_sweep(planned=0, space={}, fixed=[], seeds=[], epochs=0),
    "all waiting": a_sweep(a_trial(0, "waiting"), a_trial(1, "waiting")),
    "one trial of one seed": a_sweep(a_trial(0, seeds=1), seeds=[0]),
    "only seeds": a_sweep(a_trial(0, params={}), space={}),
    "only one seed": a_sweep(a_trial(0, params={}, seeds=1), space={}, seeds=[0]),
    "only seeds, running": a_sweep(a_trial(0, "running", params={}), space={}),
    "all failed": a_sweep(*(a_trial(number, "failed") for number in range(5))),
    "failed for no known reason": a_sweep(a_trial(0, "failed", reason=None), a_trial(1, "failed", reason="  \n ")),
    "all pruned": a_sweep(*(a_trial(number, "pruned") for number in range(5))),
    "interrupted": a_sweep(a_trial(0), a_trial(1, "interrupted"), planned=9),
    "all the same": a_sweep(*(replace(a_trial(number), values={0: 0.5}, same_as=0) for number in range(6))),
    "one metric": a_sweep(*(replace(a_trial(number), values={0: 0.5, 1: 0.5}) for number in range(6))),
    "a loss": replace(usual_sweep(), metric="val/loss", maximize=False),
    "missing keys": a_sweep(*(a_trial(one, params={"optimizer": "adam"} if one % 2 else {}) for one in range(6))),
    "an unknown state": a_sweep(a_trial(0), a_trial(1, "lost")),
    "no finite metric": a_sweep(
        *(a_trial(number, values={0: value, 1: value}, curves={0: {1: value, 2: value}})
          for number, value in enumerate((math.nan, math.inf, -math.inf)))
    ),
} | {
    f"one metric {value}": a_sweep(*(a_trial(number) for number in range(5)),
                                   a_trial(5, values={0: 0.5, 1: value}, curves={0: {1: value, 2: 0.5}}),
                                   test={0: 0.5, 1: value})
    for value in (math.nan, math.inf, -math.inf)
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_there_is_a_page_whatever_became_of_the_sweep(name: str) -> None:
    text = text_of(ODD[name])
    assert "tried" in text
    assert "could not be" not in text


def test_the_page_makes_no_request_and_runs_nothing(usual: str) -> None:
    assert not re.search(r"\ssrc=|@import|url\((?!#)", usual)
    outline = Outline(usual)
    assert not {"script", "iframe", "object", "link", "img"} & {tag for tag, _ in outline.tags}
    assert not [name for _, given in outline.tags for name in given if name.startswith("on")]
    links = [str(given[name]) for _, given in outline.tags for name in ("href", "xlink:href") if name in given]
    assert all(link.startswith(("#", "./")) for link in links)
    policy = next(given["content"] for _, given in outline.tags if "http-equiv" in given)
    assert str(policy).startswith("default-src 'none'")


def test_what_is_in_files_is_shown_and_not_obeyed() -> None:
    hostile = "<script>alert(1)</script>\x1b[2J\u202e$\\frac{1$ \"'&"
    view = replace(
        usual_sweep(),
        **dict.fromkeys(("name", "stand_in_for", "method", "pruner"), hostile),
        space={hostile: hostile, "optimizer": hostile},
        fixed=[f"a={hostile}"],
        directory=Path("x\udc80"),
        trials=[
            replace(
                trial,
                params={hostile: f"{hostile}{trial.number % 3}", "optimizer": "adam"},
                reason=f"{hostile}\n{hostile}",
                runs={0: Path("javascript:alert(1)") / hostile},
            )
            for trial in usual_sweep().trials
        ],
    )
    text = sweep_page(view)
    assert "<script" not in text
    assert "alert(1)&lt;/script&gt;" in text
    assert not {"\x1b", "\u202e", "\udc80"} & set(text)
    assert "\\x1b[2J" in text
    assert "could not be" not in text
    links = [str(given["href"]) for tag, given in Outline(text).tags if tag == "a"]
    assert links
    assert all(link.startswith(("./", "#")) for link in links)


def test_a_tie_and_a_winner_at_the_edge_of_its_range_are_said() -> None:
    rates = ["0.001", "0.01", "0.1"]
    trials = [a_trial(n, params={"optimizer.lr": rate}, values={0: 0.9}) for n, rate in enumerate(rates)]
    text = text_of(a_sweep(*trials, space={"optimizer.lr": ",".join(rates)}))
    assert "A tie: trials 1 and 2 reached the same val/acc; the earliest is shown as the best." in text
    assert "At the edge: the best optimizer.lr is the smallest that was searched; a smaller one might" in text
    trials[1] = replace(trials[1], values={0: 0.95})
    text = text_of(a_sweep(*trials, space={"optimizer.lr": ",".join(rates)}))
    assert "A tie" not in text
    assert "At the edge" not in text


def test_values_are_drawn_as_parallel_coordinates_and_the_best_against_time() -> None:
    start = datetime(2026, 1, 1)
    trials = [a_trial(n, began=start + timedelta(minutes=n), ended=start + timedelta(minutes=n + 2)) for n in range(5)]
    page = sweep_page(a_sweep(*trials))
    assert 'aria-label="each trial&#39;s values of' in page
    assert 'aria-label="val/acc by time, and the best so far"' in page
    assert "val/acc against time" not in text_of(usual_sweep())  # whose trials have no times


def test_each_rank_leads_to_its_run_and_to_its_page_where_there_is_one(tmp_path: Path) -> None:
    runs = [{0: tmp_path / f"{number}"} for number in range(2)]
    runs[0][0].mkdir()
    (runs[0][0] / "report.html").write_text("x")
    page = sweep_page(a_sweep(*(a_trial(n, runs=run) for n, run in enumerate(runs)), directory=tmp_path))
    links = {given["href"] for tag, given in Outline(page).tags if tag == "a"}
    assert links == {"./0/report.html", "./1"}


@pytest.mark.parametrize(
    ("values", "ticks"),
    [([0.0003, 0.004, 0.05], ["0.001", "0.01"]), ([1e-5, 3e-4, 1e-1], ["1e-05", "0.0001", "0.001", "0.01", "0.1"]),
     ([0.001, 0.002, 0.004], ["0.001", "0.002", "0.004"])],
)  # fmt: skip
def test_an_axis_over_several_decades_has_its_ticks_there(values: list[float], ticks: list[str]) -> None:
    axes = Figure().subplots()
    axes.set_xlim(min(values) * 0.9, max(values) * 1.1)
    plots.number_axis(axes, values, log=True)
    low, high = axes.get_xlim()
    found = [tick for tick in axes.get_xticks() if low <= tick <= high]
    texts = axes.xaxis.get_major_formatter().format_ticks(found)
    assert [text.replace("\N{MINUS SIGN}", "-") for text in texts] == ticks


def test_a_stand_in_is_named_before_all_else(usual: str) -> None:
    text = text_of(replace(ODD["one trial of one seed"], stand_in_for="mnist"))
    assert "Not mnist." in text
    assert text.index("Not mnist.") < text.index("smallvision sweep")
    assert "stand-in" not in Outline(usual).text


def test_the_best_trial_comes_with_its_metrics_and_the_command_that_runs_it_again(usual: str) -> None:
    best = usual_sweep().best
    assert best is not None
    text = Outline(usual).text
    assert f"{best.value:.4f}" in text
    assert f"train.py -m model=mnist optimizer.lr={best.params['optimizer.lr']}" in text
    assert "seed=0,1,2" in text
    assert "test/acc, mean of n = 3 seeds. 95 % interval 0.8952 to 0.9448." in text


def test_failures_of_one_kind_are_reported_once_with_all_their_trials() -> None:
    text = text_of(a_sweep(*(a_trial(number, "failed") for number in (3, 5, 8))))
    assert text.count("no memory left") == 1
    assert "trials 3, 5 and 8" in text
    assert "at step 3" in text


def test_failures_of_many_kinds_are_summed_up() -> None:
    text = text_of(a_sweep(*(a_trial(number, "failed", reason=f"reason {number}") for number in range(23))))
    assert "reason 19" in text
    assert "reason 20" not in text
    assert "Trials 20, 21 and 22 failed for other reasons" in text


def test_repetitions_without_a_search_show_the_seeds_and_nothing_of_a_search() -> None:
    text = text_of(ODD["only seeds"])
    assert "Repetitions" in text
    assert "val/acc by seed" in text
    assert "Importance" not in text
    assert "Ranking" not in text


def test_a_plot_that_fails_does_not_take_the_page_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("<b>no such font</b>")

    for module, name in ((plots, "history"), (plots, "slice_along"), (importance, "importance")):
        monkeypatch.setattr(module, name, fails)
    text = sweep_page(usual_sweep())
    assert text.count("This could not be plotted (RuntimeError: &lt;b&gt;no such font&lt;/b&gt;)") == 4
    assert "This could not be computed (RuntimeError" in text
    assert text.count('role="img" aria-label="val/acc by epoch') == 1  # the curves are still there


def test_the_same_metrics_give_the_same_page(usual: str) -> None:
    assert re.sub("This page: [^.]*", "", sweep_page(usual_sweep())) == re.sub("This page: [^.]*", "", usual)


def test_no_two_parts_of_the_page_have_the_same_id(usual: str) -> None:
    ids = [str(given["id"]) for _, given in Outline(usual).tags if "id" in given]
    assert len(ids) == len(set(ids))


def test_where_the_importance_of_keys_is_unknown_the_page_says_why() -> None:
    assert "It takes 4 finished trials to estimate the importance" in text_of(ODD["interrupted"])
    assert "there are 1." in text_of(ODD["interrupted"])


def test_a_thousand_trials_make_a_page_that_can_be_sent() -> None:
    states = ["done", "done", "done", "pruned", "failed"]
    trials = [a_trial(number, states[number % 5], seeds=1, epochs=20) for number in range(1000)]
    assert len(sweep_page(a_sweep(*trials, seeds=[0], epochs=20)).encode()) < 2_000_000
