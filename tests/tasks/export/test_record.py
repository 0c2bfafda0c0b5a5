"""exports.json: what was proven counts while the file is what it was."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from smallvision.tasks.export import record
from smallvision.tasks.export.record import FILE, Export, read

NAMES = {"onnx": "model.onnx", "torch_export": "model.pt2"}
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
    record.write(tmp_path, [export])
    return tmp_path, export


def test_what_was_recorded_is_read(written):
    folder, export = written
    assert read(folder, NAMES, "0123") == [export]


def test_a_file_of_another_network_or_changed_or_gone_does_not_count(written):
    folder, _ = written
    assert read(folder, NAMES, "4567") == []
    (folder / "model.onnx").write_bytes(b"another network")
    assert read(folder, NAMES, "0123") == []
    (folder / "model.onnx").unlink()
    assert read(folder, NAMES, "0123") == []


def test_a_strangers_record_counts_for_nothing(written):
    folder, export = written
    entry = json.loads((folder / FILE).read_text())[0]
    record.write(folder, [replace(export, file="../model.onnx")])
    assert read(folder, NAMES, "0123") == []
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
        (folder / FILE).write_text(content, errors="surrogateescape")
        assert read(folder, NAMES, "0123") == []
    (folder / FILE).write_text(json.dumps([*wrong, entry]))
    assert read(folder, NAMES, "0123") == [export]
    (folder / FILE).write_text(" " * record.MOST_BYTES + json.dumps([entry]))
    assert read(folder, NAMES, "0123") == []
