"""Runs are grouped by seed and compared: what differs, and is the difference more than chance?"""

import csv
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.outline import Outline
from helpers.run_files import DATA, a_run, config
from scipy import stats

from smallvision.reports.comparison import COLUMNS, as_csv, compare
from smallvision.reports.pages import comparison_page
from smallvision.reports.run_view import RunView


def right(wrong, count=1000):
    """Booleans: all right but for those images."""
    made = np.ones(count, bool)
    made[list(wrong)] = False
    return made


def views(*runs):
    return [RunView.read(run) for run in runs]


def test_runs_that_differ_in_their_seed_alone_are_one_configuration(tmp_path):
    made = [a_run(tmp_path / f"a{seed}", 0.8 + seed / 100, seed=seed) for seed in (0, 1, 2)]
    made.append(a_run(tmp_path / "b", 0.9, configured=config(optimizer__lr=0.1)))
    (one,) = compare(views(*made))
    assert [len(configuration.runs) for configuration in one.configurations] == [1, 3]
    assert one.differing == ["optimizer.lr"]
    assert one.configurations[1].sample("val/acc").mean == pytest.approx(0.81)
    assert one.configurations[1].sample("val/acc").deviation == pytest.approx(0.01)


def test_of_another_choice_only_the_choice_is_shown_and_not_all_that_it_brings(tmp_path):
    adam = {"name": "adam", "lr": 0.001, "betas": [0.9, 0.99]}
    made = [
        a_run(tmp_path / "a", configured=config(optimizer=adam)),
        a_run(tmp_path / "b", configured=config(optimizer={"name": "sgd", "lr": 0.1, "momentum": 0.9})),
    ]
    assert compare(views(*made))[0].differing == ["optimizer"]
    made.append(a_run(tmp_path / "c", configured=config(optimizer=adam | {"lr": 0.01})))
    assert compare(views(*made))[0].differing == ["optimizer", "optimizer.lr"]


def test_runs_on_other_images_are_not_ranked_together(tmp_path):
    made = [
        a_run(tmp_path / "a"), a_run(tmp_path / "b", seed=1),
        a_run(tmp_path / "c", data=DATA | {"fingerprint": "f" * 16}),
    ]  # fmt: skip
    assert [len(one.configurations[0].runs) for one in compare(views(*made))] == [2, 1]


def test_the_best_is_the_best_by_validation_whatever_the_test_says(tmp_path):
    made = [
        a_run(tmp_path / "a", 0.9, right=right(range(500)), configured=config(optimizer__lr=1.0)),
        a_run(tmp_path / "b", 0.8, right=right([])),
    ]
    (one,) = compare(views(*made))
    assert one.configurations[0].runs[0].directory.name == "a"
    assert one.tests[0].difference == pytest.approx(-0.5)
    assert one.tests[0].significant


def test_a_run_that_was_cut_short_is_marked_and_ranked_below_whole_ones(tmp_path):
    cut = {"cut_short": "trainer.limit_val_batches=1", "configured": config(trainer={"limit_val_batches": 1})}
    made = [a_run(tmp_path / "cut", 1.0, **cut), a_run(tmp_path / "whole", 0.5), a_run(tmp_path / "nan", None, seed=1)]
    compared = compare(views(*made))
    assert [[one.failures for one in comparison.configurations] for comparison in compared] == [[[]], [["cut short"]]]
    rows = list(csv.DictReader(io.StringIO(as_csv(compared))))
    assert [(Path(row["run"]).name, row["cut_short"]) for row in rows] == [
        ("whole", ""), ("cut", "trainer.limit_val_batches=1"), ("nan", "")]  # fmt: skip
    text = Outline(comparison_page(compared, tmp_path)).text
    assert "mnist, partial runs They did not come to their end, or saw fewer batches" in text
    assert "trainer.limit_val_batches=1" in text
    assert "(cut short)" in text


def test_an_interrupted_run_stands_apart_with_what_differs_from_whole_runs(tmp_path):
    made = [a_run(tmp_path / "whole", 0.5, rows=2)]
    made.append(a_run(tmp_path / "half", 1.0, status="interrupted", configured=config(optimizer__lr=0.1)))
    whole, partial = compare(views(*made))
    assert (whole.title, whole.partial, whole.differing) == ("mnist", [], [])
    assert (partial.title, partial.partial, partial.differing) == (
        "mnist, partial runs", ["interrupted"], ["optimizer.lr"])  # fmt: skip


def test_runs_again_with_the_same_seed_count_once(tmp_path):
    made = [a_run(tmp_path / f"a{number}", 0.8, right=right(range(10))) for number in range(3)]
    made.append(a_run(tmp_path / "a3", 0.9, seed=1, right=right(range(12))))
    for name in ("b0", "b1"):
        made.append(a_run(tmp_path / name, 0.7, right=right(range(50)), configured=config(optimizer__lr=1.0)))
    (one,) = compare(views(*made))
    first, second = one.configurations
    assert (first.seeds, second.seeds) == (2, 1)
    assert one.tests[0].p_seeds is None
    assert sorted(first.sample("val/acc").values) == [0.8, 0.9]
    text = Outline(comparison_page([one], tmp_path)).text
    assert "(4 runs, 2 seeds)" in text
    assert "(2 runs, 1 seed)" in text
    assert "To estimate it takes two seeds of each" in text
    (alone,) = compare(views(*made[:3]))
    assert not alone.repeated
    assert alone.configurations[0].sample("val/acc").interval is None


def test_the_titles_of_data_that_differ_tell_them_apart(tmp_path):
    small = {"name": "shapes", "images": 200}
    made = [
        a_run(tmp_path / "a", data=DATA | {"name": "shapes"}, configured=config(data=small | {"images": 300})),
        a_run(tmp_path / "b", data=DATA | {"name": "shapes", "fingerprint": "f" * 16}, configured=config(data=small)),
        a_run(tmp_path / "c"), a_run(tmp_path / "d", data=DATA | {"fingerprint": "e" * 16}),
    ]  # fmt: skip
    assert sorted(one.title for one in compare(views(*made))) == [
        "mnist, 012345", "mnist, eeeeee", "shapes, data.images=200", "shapes, data.images=300"]  # fmt: skip


def test_of_the_keys_that_differ_rate_and_epochs_come_first_and_whether_it_was_tested_never(tmp_path):
    made = [
        a_run(tmp_path / "a"),
        a_run(
            tmp_path / "b", configured=config(test=False, data__batch_size=1, trainer__max_epochs=9, optimizer__lr=1)
        ),
    ]
    assert compare(views(*made))[0].differing == ["optimizer.lr", "trainer.max_epochs", "data.batch_size"]


def test_single_runs_are_compared_by_mcnemars_test(tmp_path):
    made = [
        a_run(tmp_path / "a", 0.9, right=right(range(10)), configured=config(optimizer__lr=1.0)),
        a_run(tmp_path / "b", 0.8, right=right(range(5, 30))),
    ]
    (test,) = compare(views(*made))[0].tests
    assert (test.only_best, test.only_other) == (20, 5)
    assert test.p_images == pytest.approx(stats.binomtest(5, 25).pvalue)
    assert test.p_seeds is None
    assert test.significant


def test_a_difference_that_seeds_make_as_well_is_not_significant(tmp_path):
    made = []
    for name, counts, lr in (("a", (10, 100), 1.0), ("b", (15, 125), 2.0)):
        for seed, count in enumerate(counts):
            made.append(
                a_run(
                    tmp_path / f"{name}{seed}", 0.9 - lr / 10, seed=seed, right=right(range(count)),
                    configured=config(seed=seed, optimizer__lr=lr),
                )
            )  # fmt: skip
    (test,) = compare(views(*made))[0].tests
    assert test.p_images < 0.01
    expected = stats.ttest_ind([0.99, 0.9], [0.985, 0.875], equal_var=False).pvalue
    assert test.p_seeds == pytest.approx(expected)
    assert not test.significant


def test_runs_that_were_not_tested_or_on_other_images_have_no_significance_test(tmp_path):
    best = a_run(tmp_path / "a", 0.9, configured=config(optimizer__lr=1.0))
    other = a_run(tmp_path / "b", 0.8, configured=config(optimizer__lr=2.0))
    short = a_run(tmp_path / "c", 0.7, right=right([], 50), configured=config(optimizer__lr=3.0))
    (other / "report.npz").unlink()
    assert compare(views(best, other, short))[0].tests == []
    (best / "report.npz").unlink()
    assert compare(views(best, short))[0].tests == []


def test_the_page_links_the_runs_own_pages(tmp_path):
    made = [a_run(tmp_path / f"a {seed}", seed=seed) for seed in (0, 1)]
    made.append(a_run(tmp_path / "<b>", 0.5, configured=config(optimizer__lr=0.1), status="failed"))
    (made[0] / "report.html").write_text("x")
    text = comparison_page(compare(views(*made)), tmp_path)
    outline = Outline(text)
    assert "3 runs" in outline.text
    assert "2 configurations, the best by validation first" in outline.text
    assert "optimizer.lr" in outline.text
    assert "(failed)" in outline.text
    assert [tag for tag, _ in outline.tags].count("script") == 1
    assert RunView.read(made[1]).commands["report"] in outline.text  # which draws the page that it lacks
    links = [attributes["href"] for tag, attributes in outline.tags if tag == "a"]
    assert links == ["./a%200/report.html"]


def test_a_key_that_one_of_two_runs_lacks_makes_no_difference(tmp_path):
    older = a_run(tmp_path / "a", seed=0, configured=config(seed=0))
    younger = a_run(tmp_path / "b", seed=1, configured=config(seed=1, data__shuffle=True))
    (one,) = compare(views(older, younger))
    assert [len(configuration.runs) for configuration in one.configurations] == [2]
    assert one.differing == []


def test_csv_lists_the_best_by_validation_first_and_runs_without_a_metric_last(tmp_path):
    accuracies = {"a": 0.5, "b": None, "c": 0.9, "d": 0.0, "e": float("nan"), "f": 0.9, "g": 0.7}
    made = views(*(a_run(tmp_path / name, value) for name, value in accuracies.items()))
    for order in (made, made[::-1]):
        rows = list(csv.DictReader(io.StringIO(as_csv(compare(order)))))
        assert [Path(row["run"]).name for row in rows] == ["c", "f", "g", "a", "d", "b", "e"]
    assert tuple(rows[0]) == COLUMNS
    assert (rows[0]["val/acc"], rows[-2]["val/acc"], rows[0]["images/s"]) == ("0.9", "", "1000.5")


def test_a_thousand_runs_make_a_page_that_can_be_sent(tmp_path):
    made, many = RunView.read(a_run(tmp_path / "a")), []
    for number in range(1000):
        view = replace(made, results=replace(made.results, seed=number % 2))
        view.__dict__["config"] = config(optimizer__lr=number // 2 + 1)
        many.append(view)
    page = comparison_page(compare(many), tmp_path)
    assert Outline(page).text.count("seed 0") == 500
    assert len(page.encode()) < 2_000_000


def test_a_stand_in_is_marked_in_csv(tmp_path):
    run = a_run(tmp_path / "a, b", data=DATA | {"name": "digits", "stand_in_for": "mnist"})
    (row,) = csv.DictReader(io.StringIO(as_csv(compare(views(run)))))
    assert (row["run"], row["status"], row["stand_in_for"]) == (str(run), "completed*", "mnist")
