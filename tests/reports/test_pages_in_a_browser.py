"""The pages in a real browser: whole, asking nobody, and no wider than a phone."""

import pytest
from helpers.browser import Page, browser
from helpers.run_files import a_run, config

from smallvision.reports import comparison_page, run_page
from smallvision.reports.comparison import compare
from smallvision.reports.run_view import read


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    runs = [a_run(folder / f"r{seed}", 0.8, seed=seed) for seed in (0, 1)]
    runs.append(a_run(folder / "other", 0.7, configured=config(optimizer__lr=0.1)))
    runs.append(a_run(folder / "failed", status="failed", reason="x" * 300, rows=0, tested=0))
    for run in runs:
        run_page.write_page(run, run / "report.html")
    comparison_page.write_page(compare(read(run) for run in runs), folder / "comparison.html")
    return [runs[0] / "report.html", runs[3] / "report.html", folder / "comparison.html"]


def test_no_page_asks_anybody_or_is_wider_than_a_phone(pages, tmp_path):
    with browser(tmp_path / "profile") as tab:
        for page in pages:
            for width, dark in ((375, True), (1200, False)):
                look(tab, page.as_uri(), width, dark)


def look(tab: Page, address: str, width: int, dark: bool) -> None:
    tab.requests.clear()
    tab.problems.clear()
    tab.open(address, width=width, dark=dark)
    assert tab.value("document.documentElement.scrollWidth") <= width
    assert [one for one in tab.requests if not one.startswith("data:")] == [address]
    assert tab.problems == []
    assert tab.value("[...document.images].every((one) => one.naturalWidth > 0)")
    ground = tab.value("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) > 3 * 128
    assert light != dark
