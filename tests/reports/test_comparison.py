"""Runs held against each other: grouped by seed, what differs, and whether it is more than noise."""

import csv
import io
import warnings

import numpy as np
import pytest
from helpers.outline import Outline
from helpers.run_files import DATA, a_run, config
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smallvision.core.errors import UserError
from smallvision.reports import comparison_page, statistics
from smallvision.reports.comparison import compare
from smallvision.reports.run_view import RunView
from smallvision.tasks import report


def right(wrong, count=1000):
    """Booleans: all right but for those images."""
    made = np.ones(count, bool)
    made[list(wrong)] = False
    return made


def views(*runs):
    return [RunView.read(run, arrays=False) for run in runs]


def test_runs_that_differ_in_their_seed_alone_are_one_configuration(tmp_path):
    made = [a_run(tmp_path / f"a{seed}", 0.8 + seed / 100, seed=seed) for seed in (0, 1, 2)]
    made.append(a_run(tmp_path / "b", 0.9, configured=config(optimizer__lr=0.1)))
    (one,) = compare(views(*made))
    assert [len(configuration.runs) for configuration in one.configurations] == [1, 3]
    assert one.differing == ["optimizer.lr"]
    assert one.configurations[1].mean("val/acc") == pytest.approx(0.81)
    assert one.configurations[1].deviation("val/acc") == pytest.approx(0.01)


def test_of_another_choice_only_the_choice_is_told_and_not_all_that_it_brings(tmp_path):
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


def test_one_run_each_is_judged_by_mcnemars_test(tmp_path):
    made = [
        a_run(tmp_path / "a", 0.9, right=right(range(10)), configured=config(optimizer__lr=1.0)),
        a_run(tmp_path / "b", 0.8, right=right(range(5, 30))),
    ]
    (test,) = compare(views(*made))[0].tests
    assert (test.only_best, test.only_other) == (20, 5)
    assert test.p_images == pytest.approx(stats.binomtest(5, 25).pvalue)
    assert test.p_seeds is None
    assert test.significant


def test_a_difference_that_seeds_make_as_well_is_noise(tmp_path):
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


def test_runs_that_were_not_tested_or_on_other_images_are_not_tested_against(tmp_path):
    best = a_run(tmp_path / "a", 0.9, configured=config(optimizer__lr=1.0))
    other = a_run(tmp_path / "b", 0.8, configured=config(optimizer__lr=2.0))
    short = a_run(tmp_path / "c", 0.7, right=right([], 50), configured=config(optimizer__lr=3.0))
    (other / "report.npz").unlink()
    assert compare(views(best, other, short))[0].tests == []
    (best / "report.npz").unlink()
    assert compare(views(best, short))[0].tests == []


@given(st.integers(0, 200), st.integers(0, 200))
def test_mcnemar_is_the_exact_binomial_test(first, second):
    expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    assert statistics.mcnemar(first, second) == pytest.approx(expected)


numbers = st.lists(st.integers(0, 4).map(lambda n: n / 4), min_size=2, max_size=30)


@given(numbers, numbers)
def test_paired_and_welch_are_the_textbooks(first, second):
    count = min(len(first), len(second))
    differences = np.array(first[:count]) - np.array(second[:count])
    if differences.std() > 1e-9:
        assert statistics.paired(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue)
    if np.std(first) > 1e-9 or np.std(second) > 1e-9:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scipy about values that are nearly equal
            expected = stats.ttest_ind(first, second, equal_var=False).pvalue
        assert statistics.welch(first, second) == pytest.approx(expected)


def test_without_any_spread_equal_is_chance_and_unequal_is_not():
    assert statistics.paired(np.zeros(5)) == 1.0
    assert statistics.paired(np.ones(5)) == 0.0
    assert statistics.welch([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert statistics.welch([0.5, 0.5], [0.6, 0.6]) == 0.0
    assert statistics.welch([0.5], [0.6, 0.6]) is None


def test_many_comparisons_raise_the_chances_as_holm_has_it():
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert statistics.holm([]) == []


def test_the_page_is_whole_and_links_the_runs_own_pages(tmp_path):
    made = [a_run(tmp_path / f"a {seed}", seed=seed) for seed in (0, 1)]
    made.append(a_run(tmp_path / "<b>", 0.5, configured=config(optimizer__lr=0.1), status="failed"))
    (made[0] / "report.html").write_text("x")
    text = comparison_page.page(compare(views(*made)), tmp_path)
    outline = Outline(text)
    assert "3 runs" in outline.text
    assert "2 configurations, the best by validation first" in outline.text
    assert "optimizer.lr" in outline.text
    assert "(failed)" in outline.text
    assert "script" not in {tag for tag, _ in outline.tags}
    links = [attributes["href"] for tag, attributes in outline.tags if tag == "a"]
    assert links == ["./a%200/report.html"]


def test_a_report_writes_the_page_and_csv_where_the_runs_lie_and_prints_it(tmp_path, capsys):
    for seed in (0, 1):
        a_run(tmp_path / f"a{seed}", 0.8, seed=seed)
    a_run(tmp_path / "deep/b", 0.9, configured=config(optimizer__lr=0.1))
    report.run({"runs": str(tmp_path / "**"), "storage": None})
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["optimizer.lr"] for row in rows] == ["0.1", "0.001", "0.001"]
    assert (tmp_path / "comparison.html").is_file()
    assert list(csv.DictReader((tmp_path / "comparison.csv").open())) == rows


def test_a_report_of_one_run_draws_its_page_anew(tmp_path, capsys):
    run = a_run(tmp_path / "a")
    report.run({"runs": str(run), "storage": None})
    assert "75.00 %" in (run / "report.html").read_text()
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["run"] == str(run)
    assert not (run / "comparison.html").exists()


def test_only_trained_runs_are_compared(tmp_path, capsys):
    for name, task in (("a", "fit"), ("b", "test")):
        a_run(tmp_path / name, task=task)
    (tmp_path / "c").mkdir()
    (tmp_path / "c/results.json").write_text('{"task": "predict", "data": {}}')
    report.run({"runs": str(tmp_path), "storage": None})
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["run"] == str(tmp_path / "a")
    with pytest.raises(UserError, match="no trained runs there"):
        report.run({"runs": str(tmp_path / "c"), "storage": None})


def test_the_table_on_the_screen_has_what_differs(tmp_path):
    from rich.console import Console

    for seed in (0, 1):
        a_run(tmp_path / f"a{seed}", 0.8, seed=seed)
    a_run(tmp_path / "b", 0.9, configured=config(optimizer__lr=0.1))
    (one,) = compare([RunView.read(run) for run in sorted(tmp_path.iterdir())])
    console = Console(record=True, width=300, file=io.StringIO())
    console.print(report.table(one))
    text = console.export_text()
    assert "lr" in text.splitlines()[0]
    assert "0.9000" in text.splitlines()[1]
    assert "and 1 more" in text


def test_a_key_that_older_runs_lack_makes_no_difference(tmp_path):
    older = a_run(tmp_path / "a", seed=0, configured=config(seed=0))
    younger = a_run(tmp_path / "b", seed=1, configured=config(seed=1, data__shuffle=True))
    (one,) = compare(views(older, younger))
    assert [len(configuration.runs) for configuration in one.configurations] == [2]
    assert one.differing == []
