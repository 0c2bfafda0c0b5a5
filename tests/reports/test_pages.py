"""All pages: in a real browser, without requests, on a phone, light and dark; and without torch."""

import os
import re
import subprocess
import sys
from importlib import resources

import pytest
from helpers.browser import Page, browser
from helpers.run_files import a_run, config
from helpers.sweeps import usual_sweep

from smallvision.reports.comparison import compare
from smallvision.reports.pages import comparison_page, run_page, sweep_page
from smallvision.reports.plots import COLORS
from smallvision.reports.run_view import RunView


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runs = [a_run(folder / f"r{seed}", 0.8, seed=seed) for seed in (0, 1)]
    runs.append(a_run(folder / "other", 0.7, configured=config(optimizer__lr=0.1)))
    runs.append(a_run(folder / "failed", status="failed", reason="x" * 300, rows=0, tested=0))
    for run in (runs[0], runs[3]):
        (run / "report.html").write_text(run_page(RunView.read(run)), encoding="utf-8")
    comparisons = compare(RunView.read(run) for run in runs)
    (folder / "comparison.html").write_text(comparison_page(comparisons, folder), encoding="utf-8")
    (folder / "sweep.html").write_text(sweep_page(usual_sweep()), encoding="utf-8")
    return [runs[0] / "report.html", runs[3] / "report.html", folder / "comparison.html", folder / "sweep.html"]


def test_no_page_makes_requests_or_is_wider_than_a_phone_and_all_are_light_or_dark(pages, tmp_path):
    with browser(tmp_path / "profile") as tab:
        for page in pages:
            for width, dark in ((375, True), (1200, False)):
                check(tab, page.as_uri(), width, dark)


def test_a_comparison_is_sorted_by_a_click_and_filtered_by_what_is_typed(pages, tmp_path):
    rows = "document.querySelector('.sortable').querySelectorAll('tbody tr:not([hidden]) td:first-child')"
    ranks = f"[...{rows}].map((cell) => +cell.innerText)"
    with browser(tmp_path / "profile") as tab:
        tab.open(pages[2].as_uri())
        best = tab.value(ranks)
        assert best == sorted(best)
        assert len(best) == 2
        lr = "[...document.querySelectorAll('.sortable th')].find((one) => one.innerText.startsWith('optimizer.lr'))"
        tab.value(f"{lr}.click()")
        first = tab.value(ranks)
        assert tab.value(f"{lr}.ariaSort") == "ascending"
        tab.value(f"{lr}.click()")
        assert tab.value(f"{lr}.ariaSort") == "descending"
        assert tab.value(ranks)[0] == first[-1]
        tab.value("document.querySelector('input').focus()")
        tab.call("Input.insertText", text="seed 0.001")
        assert len(tab.value(ranks)) == 1
        assert tab.value("document.querySelector('output').innerText") == "1 / 2"
        assert tab.problems == []


def check(tab: Page, address: str, width: int, dark: bool) -> None:
    tab.requests.clear()
    tab.problems.clear()
    tab.open(address, width=width, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert [one for one in tab.requests if not one.startswith("data:")] == [address]
    assert tab.problems == []
    assert tab.value("[...document.images].every((one) => one.naturalWidth > 0)")
    background = brightness(tab.value("getComputedStyle(document.body).backgroundColor"))
    assert (background > 128) != dark
    labels = tab.value("[...document.querySelectorAll('figure svg text')].map((one) => getComputedStyle(one).fill)")
    assert all(abs(brightness(label) - background) > 60 for label in labels)


def brightness(color: str) -> float:
    red, green, blue = map(int, re.findall(r"\d+", color)[:3])
    return (red + green + blue) / 3


def test_each_color_of_the_plots_is_replaced_by_its_variable():
    style = resources.files("smallvision.reports").joinpath("templates/page.css").read_text()
    light = style[: style.index("@media")]
    for role, color in COLORS.items():
        assert f"--{role}: {color};" in light
        for property_ in ("stroke", "fill"):
            assert f'svg [style*="{property_}: {color}"] {{ {property_}: var(--{role}) !important; }}' in style


def test_reports_need_no_torch():
    code = "import sys; import smallvision.reports.pages, smallvision.tasks.report;sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0
