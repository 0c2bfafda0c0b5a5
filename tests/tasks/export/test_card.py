"""The model card shows text from files as text, and the accuracy of this network's own run or none."""

import json
import re
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.predictors import DATASET
from hypothesis import given
from hypothesis import strategies as st

from smallvision.tasks.export.card import Accuracy, code_block, escape, measured

DATA = {**DATASET, "remark": None}
RESULTS = {
    "status": "completed", "task": "fit", "seed": 0, "device": "cpu", "precision": "32",
    "data": {**DATA, "train": 500, "val": 60, "test": 200}, "model": {"name": "m", "parameters": 7},
    "optimizer": "adam", "epochs": 4, "steps": 40, "metrics": {"val/acc": 0.75, "test/acc": 0.5},
    "best_checkpoint": "checkpoints/best.ckpt", "seconds": {"total": 1.0, "fit": 1.0, "test": 1.0},
    "images_per_second": 10.0, "best_epoch": 3, "tested": 100,
}  # fmt: skip


def accuracies(folder, results, name="checkpoints/best.ckpt", trainer=None, epoch=3):
    """Those of a run with these results, for the checkpoint of that name."""
    (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    checkpoint = SimpleNamespace(path=folder / name, dataset=DATA, config={"trainer": trainer or {}}, epoch=epoch)
    predictor: Any = SimpleNamespace(checkpoint=checkpoint)
    return measured(predictor)


def test_the_best_checkpoint_of_a_run_has_the_accuracy_of_its_run(tmp_path):
    assert accuracies(tmp_path, RESULTS) == [Accuracy("validation", 0.75, 60), Accuracy("test", 0.5, 100)]


def test_where_only_a_part_was_validated_the_number_of_images_is_unknown(tmp_path):
    validation, _ = accuracies(tmp_path, RESULTS, trainer={"limit_val_batches": 1})
    assert validation == Accuracy("validation", 0.75, None)


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "best.ckpt", "elsewhere/best.ckpt"])
def test_other_checkpoints_have_none(tmp_path, name):
    assert accuracies(tmp_path, RESULTS, name) == []


@pytest.mark.parametrize(
    "other", [{"task": "test"}, {"best_epoch": 7}, {"data": {**RESULTS["data"], "fingerprint": "4567"}}]
)
def test_results_of_another_task_epoch_or_data_set_are_ignored(tmp_path, other):
    assert accuracies(tmp_path, {**RESULTS, **other}) == []


@pytest.mark.parametrize("wrong", ["", "[", "{}", "[" * 100_000, json.dumps({**RESULTS, "data": []})])
def test_malformed_results_are_ignored(tmp_path, wrong):
    assert accuracies(tmp_path, wrong) == []


@pytest.mark.parametrize("wrong", [None, 2, -1, 1e999, float("nan")])
def test_an_accuracy_outside_0_to_1_is_left_out(tmp_path, wrong):
    assert accuracies(tmp_path, {**RESULTS, "metrics": {"val/acc": wrong, "test/acc": wrong}}) == []
    assert len(accuracies(tmp_path, {**RESULTS, "tested": 0})) == 1


def test_markdown_in_inserted_text_is_escaped():
    assert escape("a*b_c`d") == r"a\*b\_c\`d"
    assert escape("[x](javascript:1)") == r"\[x\]\(javascript:1\)"
    assert escape("<script>&") == "&lt;script&gt;&amp;"
    assert escape("a|b\n# c") == r"a\|b \# c"
    assert "://" not in escape("see https://example.org").replace(r"\://", "")
    assert escape("\x1b[2J") == r"\\x1b\[2J"


@given(st.text())
def test_any_text_stays_in_its_cell_of_a_table(text):
    cell = escape(text)
    assert len(cell.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*\[<>]", cell)
    assert cell.isprintable()


@given(st.text(alphabet="`ab\n", max_size=30))
def test_no_code_ends_its_block(code):
    first, *inside, last = code_block(code, "sh").split("\n")
    assert first == last + "sh"
    assert not any(line.startswith(last) for line in inside)
