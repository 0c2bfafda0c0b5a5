"""The page of a run: whole by itself, safe, and there whatever became of the run."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers.outline import Outline
from helpers.run_files import DATA, a_run, config, results

from smallvision.core.errors import UserError
from smallvision.reports import run_page, run_pictures
from smallvision.reports.judged import Evaluation
from smallvision.reports.run_view import read
from smallvision.reports.statistics import wilson


def page(directory: Path) -> str:
    made = run_page.page(read(directory))
    Outline(made)  # every tag is closed
    return made


def words(directory: Path) -> str:
    return " ".join(Outline(page(directory)).words.split())


def test_it_says_what_ran_how_it_ended_and_how_sure_its_figures_are(tmp_path):
    said = words(a_run(tmp_path / "run"))
    assert "mnist, linear, adam" in said
    assert "learnt 900 images for 2 epochs, to the end. Validation chose epoch 2, which was tested once." in said
    low, high = wilson(150, 200)
    interval = f"95 % interval {100 * low:.2f} % to {100 * high:.2f} %"
    assert f"75.00 % of the test images right (test/acc 0.7500). {interval}" in said
    assert "n = 200" in said
    assert "python train.py model=linear optimizer=adam" in said


def test_nothing_is_asked_of_anybody(tmp_path):
    outline = Outline(page(a_run(tmp_path / "run")))
    for tag, attributes in outline.tags:
        assert tag not in ("script", "link", "iframe", "object", "base", "form")
        for name in ("src", "href"):
            address = attributes.get(name) or "#"
            assert address.startswith(("data:image/png;base64,", "#", "./")), address
    assert "default-src 'none'" in page(tmp_path / "run")
    assert not re.search(r"url\((?!#)|@import", page(tmp_path / "run"))


@pytest.mark.parametrize("status", ["failed", "interrupted", "pruned"])
@pytest.mark.parametrize("rows", [0, 1, 30])
def test_a_run_that_did_not_end_well_has_its_page(tmp_path, status, rows):
    run = a_run(
        tmp_path / "run", status=status, reason="the loss turned <nan>", rows=rows, tested=0, epochs=rows,
        best_epoch=None,
    )  # fmt: skip
    (run / "report.npz").unlink()
    said = words(run)
    assert f"{status.capitalize()}. the loss turned <nan>" in said
    assert ("It did not come to the end of an epoch" in said) == (rows == 0)
    assert "Where it errs" not in said


def test_a_stand_in_and_a_partial_test_are_named_before_all_else(tmp_path):
    data = DATA | {"name": "digits", "stand_in_for": "mnist", "source": "digits for mnist", "test": 500}
    said = words(a_run(tmp_path / "run", data=data))
    head = said.index("smallvision run digits, linear, adam")
    assert 0 < said.index("Not mnist.") < said.index("Partial test. Only 200 of the 500 test images") < head


def test_what_files_say_is_shown_and_not_obeyed(tmp_path):
    evil = "<script>alert(1)</script>\x1b[31m"
    run = a_run(
        tmp_path / "run",
        status="failed",
        reason=evil,
        unsaved=[evil],
        data=DATA | {"name": evil, "remark": evil},
    )
    with np.load(run / "report.npz") as archive:
        found = dict(archive)
    with (run / "report.npz").open("wb") as file:
        np.savez_compressed(file, **found | {"classes": np.array([evil, '"><img src=x onerror=alert(1)>', "c"])})
    (run / "overrides.yaml").write_text(yaml.safe_dump([evil]))
    (run / "environment.json").write_text(json.dumps({"hardware": evil, evil: evil, "packages": {evil: evil}}))
    (run / "config.yaml").write_text(yaml.safe_dump(config(model={"name": evil})))
    outline = Outline(page(run))
    assert "script" not in {tag for tag, _ in outline.tags}
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert "\x1b" not in page(run)


@pytest.mark.parametrize("name", ["config.yaml", "overrides.yaml", "environment.json", "metrics.csv", "report.npz"])
@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b"[[[[", b"- 3\n- {a: 1}\n", b"a,b\n1,2\n", None])
def test_a_file_that_is_missing_or_damaged_is_left_out(tmp_path, name, text):
    run = a_run(tmp_path / "run")
    (run / name).unlink() if text is None else (run / name).write_bytes(text)
    assert "75.00 % of the test images right" in words(run)


@pytest.mark.parametrize(
    "change",
    [
        {"test_labels": np.array([0, 1, 99] * 66 + [0, 1], np.int32)},
        {"test_labels": np.zeros(3, np.int32)},
        {"test_probabilities": np.full((200, 3), np.nan, np.float32)},
        {"test_probabilities": np.zeros((200, 7), np.float32)},
        {"mistake_index": np.array([-1])},
        {"mistakes": np.zeros((50, 8, 8), np.uint8)},
        {"samples": np.zeros((5, 8, 8, 1), np.float32)},
        {"other": np.zeros(3)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_arrays_that_do_not_fit_together_are_left_out(tmp_path, change):
    run = a_run(tmp_path / "run")
    with np.load(run / "report.npz") as archive:
        found = dict(archive)
    with (run / "report.npz").open("wb") as file:
        np.savez_compressed(file, **found | change)
    assert read(run).arrays == {}
    assert "Where it errs" not in words(run)


def test_arrays_that_would_fill_the_memory_are_left_out(tmp_path, monkeypatch):
    run = a_run(tmp_path / "run")
    monkeypatch.setattr("smallvision.reports.run_view.MOST_BYTES", 1000)
    assert read(run).arrays == {}


def test_pickles_are_left_alone(tmp_path):
    run = a_run(tmp_path / "run")
    with (run / "report.npz").open("wb") as file:
        np.savez_compressed(file, classes=np.array([{"a": 1}], dtype=object))
    assert read(run).arrays == {}


@pytest.mark.parametrize(
    "change",
    [{"seed": "x"}, {"epochs": -1}, {"steps": 10**30}, {"data": []}, {"metrics": {"test/acc": "1"}},
     {"status": None}, {"tested": 1.5}, {"seconds": {"epochs": [{"train": 1}]}}, {"model": {"name": "x"}}],
    ids=str,
)  # fmt: skip
def test_results_that_no_run_writes_are_refused(tmp_path, change):
    with pytest.raises(UserError, match=r"results\.json: not a run's results"):
        read(a_run(tmp_path / "run", **change) if "metrics" not in change else _with(tmp_path, change))


def _with(folder: Path, change: dict[str, Any]) -> Path:
    run = a_run(folder / "run")
    (run / "results.json").write_text(json.dumps(results() | change))
    return run


def test_a_picture_that_fails_does_not_take_the_page_with_it(tmp_path, monkeypatch):
    def fail(*_: Any) -> None:
        raise RuntimeError("no letters here")

    monkeypatch.setattr(run_pictures, "learning", fail)
    said = words(a_run(tmp_path / "run"))
    assert said.count("This could not be drawn (RuntimeError: no letters here).") == 2
    assert "75.00 % of the test images right" in said


def test_many_classes_have_no_matrix_but_their_commonest_confusions(tmp_path):
    run = a_run(tmp_path / "run")
    count = 30
    labels = np.arange(200) % count
    probabilities = np.eye(count, dtype=np.float32)[(labels + (labels == 3)) % count]
    with (run / "report.npz").open("wb") as file:
        np.savez_compressed(
            file, classes=np.array([f"c{n}" for n in range(count)]), test_probabilities=probabilities,
            test_labels=labels,
        )  # fmt: skip
    said = words(run)
    assert "Confusion matrix" not in said
    assert "c3 taken for c4 (7)" in said


def test_the_same_run_gives_the_same_page(tmp_path):
    run = a_run(tmp_path / "run")
    pages = {re.sub(r"This page: [^.]*", "", page(run)) for _ in range(2)}
    assert len(pages) == 1


def test_answers_are_judged_class_by_class_and_bin_by_bin():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    judged = Evaluation(probabilities, np.array([0, 1, 1, 1]))
    assert judged.confusion.tolist() == [[1, 0], [2, 1]]
    assert [(one.index, one.right, one.count, one.taken_for) for one in judged.classes] == [
        (0, 1, 1, None), (1, 1, 3, (0, 2)),
    ]  # fmt: skip
    assert judged.confused(5) == [(1, 0, 2)]
    # |1 - 0.9|, |0 - 0.8|, |1 - 0.7|, |0 - 0.6|, each alone in its bin
    assert judged.calibration_error == pytest.approx((0.1 + 0.8 + 0.3 + 0.6) / 4)


def test_honest_probabilities_have_a_small_calibration_error():
    draw = np.random.default_rng(0)
    sure = draw.uniform(0.5, 1, 100_000)
    labels = (draw.uniform(size=100_000) >= sure).astype(int)
    assert Evaluation(np.stack([sure, 1 - sure], 1), labels).calibration_error < 0.01
    assert Evaluation(np.stack([sure**4, 1 - sure**4], 1).clip(0.5, 1), labels).calibration_error > 0.05
