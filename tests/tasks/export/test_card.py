"""The model card shows text from files as text, and the accuracy of this network's own run or none; exports.json lists
the files that were verified and have not changed since.
"""

import json
import re
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace
from typing import Any

import pytest
from helpers.predictors import DATASET
from hypothesis import given
from hypothesis import strategies as st

from smallvision.tasks.export import card
from smallvision.tasks.export.card import MANIFEST, Accuracy, Export, code_block, escape, measured, read_exports

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


# exports.json -----------------------------------------------------------------------------------------

FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
CONTENT = b"a network"


@pytest.fixture
def written(tmp_path):
    """A folder with one export."""
    (tmp_path / "model.onnx").write_bytes(CONTENT)
    export = Export(
        format="onnx", file="model.onnx", bytes=len(CONTENT), sha256=sha256(CONTENT).hexdigest(), of="0123",
        difference=1e-7, agreed=9, images=10, batches="1, 7", compared_on="10 test images of x", caution=None,
        runtime="onnxruntime", seconds=1.5,
    )  # fmt: skip
    card.write_exports(tmp_path, [export])
    return tmp_path, export


def test_what_was_written_is_read(written):
    folder, export = written
    assert read_exports(folder, FILES, "0123") == {"onnx": export}


def test_a_file_of_another_network_or_changed_or_missing_is_left_out(written):
    folder, _ = written
    assert read_exports(folder, FILES, "4567") == {}
    (folder / "model.onnx").write_bytes(b"another network")
    assert read_exports(folder, FILES, "0123") == {}
    (folder / "model.onnx").unlink()
    assert read_exports(folder, FILES, "0123") == {}


def test_malformed_entries_are_ignored(written):
    folder, export = written
    entry = json.loads((folder / MANIFEST).read_text())[0]
    card.write_exports(folder, [replace(export, file="../model.onnx")])
    assert read_exports(folder, FILES, "0123") == {}
    wrong = [
        {**entry, "difference": "<b>"},
        {**entry, "agreed": True},
        {**entry, "difference": None},
        {**entry, "caution": ["x"]},
        {**entry, "format": ["onnx"]},
        {**entry, "format": "exe"},
        {**entry, "more": 1},
        {},
        [],
        None,
    ]
    for content in (*(json.dumps([one]) for one in wrong), "{}", "[", "[" * 100_000, "1" * 10_000, "\udcff"):
        (folder / MANIFEST).write_text(content, errors="surrogateescape")
        assert read_exports(folder, FILES, "0123") == {}
    (folder / MANIFEST).write_text(json.dumps([*wrong, entry]))
    assert read_exports(folder, FILES, "0123") == {"onnx": export}
    (folder / MANIFEST).write_text(" " * card.MAX_BYTES + json.dumps([entry]))
    assert read_exports(folder, FILES, "0123") == {}
