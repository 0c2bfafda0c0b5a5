"""A sweep's page: whole by itself, safe, and there whatever became of the sweep."""

import math
import os
import random
import re
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.outline import Outline

from smallvision.reports import searched, sweep_page, sweep_pictures
from smallvision.reports.sweep_view import SweepView, TrialView

SPACE = {"optimizer.lr": "tag(log, interval(0.0001, 0.1))", "optimizer": "choice(adam, sgd)"}
ODD_NUMBERS = (math.nan, math.inf, -math.inf)


def trial(number: int, state: str = "done", seeds: int = 3, epochs: int = 4, **more: Any) -> TrialView:
    draw = random.Random(number)
    lr, height = 10 ** draw.uniform(-4, -1), draw.uniform(0.9, 0.95)
    long = epochs if state == "done" else 2
    curves = {
        seed: {epoch: height - 0.2 / epoch + draw.gauss(0, 0.001) for epoch in range(1, long + 1)}
        for seed in range(seeds)
    }
    given: dict[str, Any] = {
        "params": {"optimizer.lr": repr(lr), "optimizer": draw.choice(["adam", "sgd"])},
        "curves": {} if state == "waiting" else curves,
        "values": {seed: max(curve.values()) for seed, curve in curves.items()} if state == "done" else {},
        "runs": {seed: Path(f"outputs/tried/{number}-seed{seed}") for seed in range(seeds)},
        "reason": {"failed": "no memory left\n  at step 3", "pruned": "below the median"}.get(state),
        "seconds": 12.5,
    }
    return TrialView(number, state, **(given | more))


def sweep(*trials: TrialView, **more: Any) -> SweepView:
    given: dict[str, Any] = {
        "name": "tried", "directory": Path("outputs/tried"), "method": "random", "metric": "val/acc",
        "maximize": True, "seeds": [0, 1, 2], "space": SPACE, "fixed": ["model=mnist"],
        "planned": len(trials), "epochs": 4, "trials": list(trials), "pruner": "median",
    }  # fmt: skip
    return SweepView(**(given | more))


def usual() -> SweepView:
    states = ["done"] * 8 + ["pruned", "failed", "interrupted", "running", "waiting"]
    return sweep(*(trial(number, state) for number, state in enumerate(states)), test={0: 0.91, 1: 0.92, 2: 0.93})


def words(view: SweepView) -> str:
    return re.sub(r"\s+", " ", Outline(sweep_page.page(view)).words)


ODD = {
    "nothing begun": sweep(planned=5),
    "nothing planned": sweep(planned=0, space={}, fixed=[], seeds=[], epochs=0),
    "all waiting": sweep(trial(0, "waiting"), trial(1, "waiting")),
    "one trial": sweep(trial(0)),
    "one trial of one seed": sweep(trial(0, seeds=1), seeds=[0]),
    "only seeds": sweep(trial(0, params={}), space={}),
    "only one seed": sweep(trial(0, params={}, seeds=1), space={}, seeds=[0]),
    "only seeds, under way": sweep(trial(0, "running", params={}), space={}),
    "all failed": sweep(*(trial(number, "failed") for number in range(5))),
    "failed for no known reason": sweep(trial(0, "failed", reason=None), trial(1, "failed", reason="  \n ")),
    "all pruned": sweep(*(trial(number, "pruned") for number in range(5))),
    "interrupted": sweep(trial(0), trial(1, "interrupted"), planned=9),
    "all the same": sweep(*(replace(trial(number), values={0: 0.5}, same_as=0) for number in range(6))),
    "one figure": sweep(*(replace(trial(number), values={0: 0.5, 1: 0.5}) for number in range(6))),
    "a loss": replace(usual(), metric="val/loss", maximize=False),
    "missing keys": sweep(*(trial(one, params={"optimizer": "adam"} if one % 2 else {}) for one in range(6))),
    "an unknown state": sweep(trial(0), trial(1, "lost")),
} | {
    f"figures {value}": sweep(
        *(trial(number, values={0: value, 1: value}, curves={0: {1: value, 2: value}}) for number in range(5))
    )
    for value in ODD_NUMBERS
} | {
    f"one figure {value}": sweep(*(trial(number) for number in range(5)),
                                 trial(5, values={0: 0.5, 1: value}, curves={0: {1: value, 2: 0.5}}),
                                 test={0: 0.5, 1: value})
    for value in ODD_NUMBERS
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_there_is_a_page_whatever_became_of_the_sweep(name: str) -> None:
    text = sweep_page.page(ODD[name])
    assert "tried" in Outline(text).words
    assert "could not be drawn" not in text


def test_the_page_asks_for_nothing_and_runs_nothing() -> None:
    text = sweep_page.page(usual())
    assert not re.search(r"https?://|//[a-z]|\ssrc=|@import|url\((?!#)", text)
    outline = Outline(text)
    assert not {"script", "iframe", "object", "link", "img"} & {tag for tag, _ in outline.tags}
    assert not [name for _, given in outline.tags for name in given if name.startswith("on")]
    policy = next(given["content"] for _, given in outline.tags if "http-equiv" in given)
    assert str(policy).startswith("default-src 'none'")


def test_what_is_in_files_is_shown_and_not_obeyed() -> None:
    hostile = "<script>alert(1)</script>\x1b[2J\u202e$\\frac{1$ \"'&"
    view = replace(
        usual(),
        **dict.fromkeys(("name", "stand_in_for", "method", "pruner"), hostile),
        space={hostile: hostile, "optimizer": hostile},
        fixed=[f"a={hostile}"],
        directory=Path("x\udc80"),
        trials=[
            replace(
                one,
                params={hostile: f"{hostile}{one.number % 3}", "optimizer": "adam"},
                reason=f"{hostile}\n{hostile}",
                runs={0: Path("javascript:alert(1)") / hostile},
            )
            for one in usual().trials
        ],
    )
    text = sweep_page.page(view)
    assert "<script" not in text
    assert "alert(1)&lt;/script&gt;" in text
    assert not {"\x1b", "\u202e", "\udc80"} & set(text)
    assert "\\x1b[2J" in text
    assert "could not be drawn" not in text
    links = [str(given["href"]) for tag, given in Outline(text).tags if tag == "a"]
    assert links
    assert all(link.startswith(("./", "#")) for link in links)


def test_a_stand_in_is_named_before_all_else() -> None:
    text = words(replace(usual(), stand_in_for="mnist"))
    assert "Not mnist." in text
    assert text.index("Not mnist.") < text.index("smallvision sweep")
    assert "stand-in" not in words(usual())


def test_the_winner_comes_with_its_figures_and_the_command_that_runs_it_again() -> None:
    view = usual()
    best = view.best
    assert best is not None
    text = words(view)
    assert f"{best.value:.4f}" in text
    assert f"python train.py -m model=mnist optimizer.lr={best.params['optimizer.lr']}" in text
    assert "seed=0,1,2" in text
    assert "test/acc, mean of n = 3 seeds. 95 % interval 0.8952 to 0.9448." in text


def test_failures_of_one_kind_are_told_once_with_all_their_trials() -> None:
    text = words(sweep(*(trial(number, "failed") for number in (3, 5, 8))))
    assert text.count("no memory left") == 1
    assert "trials 3, 5 and 8" in text
    assert "at step 3" in text


def test_repetitions_without_a_search_show_the_seeds_and_nothing_of_a_search() -> None:
    text = words(ODD["only seeds"])
    assert "Repetitions" in text
    assert "val/acc by seed" in text
    assert "What matters" not in text
    assert "Ranking" not in text


def test_a_picture_that_fails_does_not_take_the_page_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("<b>no such font</b>")

    for module, name in (
        (sweep_pictures, "history"),
        (sweep_pictures, "slice_along"),
        (searched, "importance"),
    ):
        monkeypatch.setattr(module, name, fails)
    text = sweep_page.page(usual())
    assert text.count("This could not be drawn (RuntimeError: &lt;b&gt;no such font&lt;/b&gt;)") == 4
    assert text.count('<svg viewBox="0') == 1  # the curves are still there


def test_the_same_figures_give_the_same_pictures() -> None:
    assert sweep_pictures.history(usual()) == sweep_pictures.history(usual())
    assert sweep_pictures.slice_along(usual(), "optimizer.lr", "a") == sweep_pictures.slice_along(
        usual(), "optimizer.lr", "a"
    )


def test_marks_of_one_picture_are_not_those_of_another() -> None:
    found = [str(given["id"]) for _, given in Outline(sweep_page.page(usual())).tags if "id" in given]
    assert len(found) == len(set(found))


def test_where_nothing_can_be_said_of_what_matters_the_page_says_why() -> None:
    assert "It takes 4 finished trials to say what matters; there are 1." in words(ODD["interrupted"])


def test_a_page_needs_no_torch() -> None:
    code = "import sys; import smallvision.reports.sweep_page; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0


def test_a_thousand_trials_make_a_page_that_can_be_sent(tmp_path: Path) -> None:
    states = ["done", "done", "done", "pruned", "failed"]
    view = sweep(
        *(trial(number, states[number % 5], seeds=1, epochs=20) for number in range(1000)),
        seeds=[0],
        epochs=20,
    )
    began = time.perf_counter()
    sweep_page.write_page(view, tmp_path / "sweep.html")
    size = (tmp_path / "sweep.html").stat().st_size
    print(f"1,000 trials: {size:,} bytes in {time.perf_counter() - began:.1f} s")
    assert size < 2_000_000
    assert [file.name for file in tmp_path.iterdir()] == ["sweep.html"]
