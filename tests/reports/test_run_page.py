"""The page of a run: self-contained, safe, and there whatever became of the run."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.outline import Outline
from helpers.run_files import DATA, a_run, config

from smallvision.core.run_dir import opened
from smallvision.reports import pages, plots
from smallvision.reports.run_view import RunView
from smallvision.reports.statistics import wilson


def page(directory: Path) -> str:
    return pages.run_page(RunView.read(directory))


def text_of(directory: Path) -> str:
    return Outline(page(directory)).text


@pytest.fixture(scope="module")
def usual_run(tmp_path_factory) -> Path:
    """A run that was completed and tested."""
    return a_run(tmp_path_factory.mktemp("usual") / "run")


@pytest.fixture(scope="module")
def usual(usual_run) -> str:
    return page(usual_run)


def test_it_reports_what_ran_how_it_ended_and_how_certain_its_accuracy_is(usual):
    text = Outline(usual).text
    assert "mnist, linear, adam" in text
    assert "trained on 900 images for 2 epochs, to the end. Validation chose epoch 2, which was tested once." in text
    low, high = wilson(150, 200)
    interval = f"95 % interval {100 * low:.2f} % to {100 * high:.2f} %"
    assert f"75.00 % accuracy on the test images (test/acc 0.7500). {interval}, n = 200, loss 0.5000." in text
    assert "train.py rerun=" in text


def test_its_contents_lead_to_its_parts(usual):
    tags = Outline(usual).tags
    links = [attributes["href"] for tag, attributes in tags if tag == "a" and attributes["href"].startswith("#")]
    assert len(links) >= 6
    assert {link[1:] for link in links} <= {attributes.get("id") for _, attributes in tags}


def test_classes_have_precision_recall_f1_and_support_and_there_is_a_baseline(usual):
    text = Outline(usual).text
    assert "Always predicting the most frequent class, zero, would be correct for 33.5 % of these images" in text
    assert "macromean75.0%75.0%75.0%200" in text.replace(" ", "")


def test_loss_and_rate_of_every_step_are_drawn_and_one_epoch_has_no_curves_by_epoch(tmp_path):
    run = a_run(tmp_path / "run", rows=1, epochs=1, best_epoch=1, steps=2000)
    steps = np.rec.fromarrays(np.linspace(0.001, 1, 6000).reshape(3, 2000).astype("f4"), names="epoch,loss,lr")
    np.save(run / "steps.npy", steps)
    text = text_of(run)
    assert "Loss of each step" in text
    assert "mean and range of neighbours" in text
    assert "Learning rate of each step" in " ".join(re.sub(r"[\d.]+|epoch", "", text).split())
    assert "Loss of each epoch" not in text
    assert "train/loss1.0000train/acc0.5000val/loss0.6000val/acc0.7500" in text
    (run / "steps.npy").write_bytes(b"\x93NUMPY damaged")
    assert "Loss of each step" not in text_of(run)


def test_a_run_that_is_under_way_has_its_page_and_one_that_was_killed(tmp_path):
    run = a_run(tmp_path / "run", 0.8, status="running", epochs=0, best_epoch=None)
    (run / "results.json").rename(run / "running.json")
    with opened(run, []):
        text = text_of(run)
        assert "and is under way: so far 2 epochs" in text
        assert f"python train.py task=report runs={run}" in text
        assert "(val/acc 0.8000) in epoch 2" in text
    assert "Interrupted. Its process was killed." in text_of(run)


def test_it_makes_no_request(usual):
    for tag, attributes in Outline(usual).tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        for name in ("src", "href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("data:image/png;base64,", "#", "./")), address
    assert "default-src 'none'" in usual
    assert not re.search(r"url\((?!#)|@import", usual)


@pytest.mark.parametrize(("status", "rows"), [("failed", 0), ("interrupted", 1), ("pruned", 31)])
def test_a_run_that_was_not_completed_has_its_page(tmp_path, status, rows):
    run = a_run(
        tmp_path / "run", status=status, reason="the loss is <nan>", rows=rows, tested=0, epochs=rows, best_epoch=None
    )  # fmt: skip
    (run / "report.npz").unlink()
    text = text_of(run)
    assert f"{status.capitalize()}. the loss is <nan>" in text
    assert ("No epoch has come to its end" in text) == (rows == 0)
    assert "Confusion matrix" not in text


def test_a_stand_in_and_a_partial_test_are_named_before_all_else(tmp_path):
    data = DATA | {"name": "digits", "stand_in_for": "mnist", "source": "digits for mnist", "test": 500}
    text = text_of(a_run(tmp_path / "run", data=data))
    head = text.index("smallvision run digits, linear, adam")
    assert 0 <= text.index("Not mnist.") < text.index("Partial test. Only 200 of the 500 test images") < head


def test_what_files_contain_is_shown_and_not_obeyed(tmp_path):
    evil = "<script>alert(1)</script>\x1b[31m"
    data = DATA | {"name": evil, "remark": evil}
    run = a_run(tmp_path / "run", status="failed", reason=evil, unsaved=[evil], data=data)
    classes = np.array([evil, '"><img src=x onerror=alert(1)>', "c"])
    np.savez_compressed(run / "report.npz", **dict(np.load(run / "report.npz")) | {"classes": classes})
    (run / "overrides.yaml").write_text(yaml.safe_dump([evil]))
    (run / "environment.json").write_text(json.dumps({"hardware": evil, evil: evil, "packages": {evil: evil}}))
    (run / "config.yaml").write_text(yaml.safe_dump(config(model={"name": evil})))
    text = page(run)
    outline = Outline(text)
    assert "script" not in {tag for tag, _ in outline.tags}
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert "\x1b" not in text


def test_a_plot_that_fails_does_not_take_the_page_with_it(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("no letters here")

    monkeypatch.setattr(plots, "learning_curve", fail)
    text = text_of(a_run(tmp_path / "run"))
    assert text.count("This could not be plotted (RuntimeError: no letters here).") == 2
    assert "75.00 % accuracy on the test images" in text


def test_many_classes_have_no_matrix_but_their_most_frequent_confusions(tmp_path):
    run, count = a_run(tmp_path / "run"), 30
    labels = np.arange(200) % count
    probabilities = np.eye(count, dtype=np.float32)[(labels + (labels == 3)) % count]
    classes = np.array([f"c{n}" for n in range(count)])
    np.savez_compressed(run / "report.npz", classes=classes, test_probabilities=probabilities, test_labels=labels)
    text = text_of(run)
    assert "Confusion matrix" not in text
    assert "c3 taken for c4 (7)" in text


def test_the_same_run_gives_the_same_page(usual_run, usual):
    assert re.sub(r"This page: [^.]*", "", page(usual_run)) == re.sub(r"This page: [^.]*", "", usual)


def test_typed_settings_are_marked(tmp_path):
    run = a_run(tmp_path / "run")
    (run / "overrides.yaml").write_text("[model=linear, +optimizer.lr=0.001]\n")
    typed = {key for key, _, typed in RunView.read(run).settings if typed}
    assert typed == {"model.name", "optimizer.lr"}


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_lie_side_by_side_with_zero_as_middle_grey(channels):
    filters = np.stack([np.zeros((channels, 2, 3)), np.full((channels, 2, 3), 5.0), np.full((channels, 2, 3), -0.1)])
    filters = np.concatenate([filters, np.zeros((14, channels, 2, 3))])
    sheet = pages.filter_sheet(filters)
    assert sheet.shape == (5, 16 * 4 - 1, 4)
    assert [sheet[0, 0].tolist(), sheet[1, 4].tolist()] == [[128, 128, 128, 255], [255, 255, 255, 255]]
    assert sheet[0, 8].tolist() == [0, 0, 0, 255]
    assert not sheet[2].any()  # the gap between rows
    assert not sheet[3:, 4:].any()  # no eighteenth filter


def test_filters_that_no_image_can_show_are_left_out():
    assert pages.filter_sheet(np.zeros((0, 0, 0, 0))) is None
    assert pages.filter_sheet(np.zeros((4, 2, 3, 3))) is None
    assert pages.filter_sheet(np.full((4, 1, 3, 3), np.nan)) is None
