"""exports.json lists the files that were verified and have not changed since."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest

from smallvision.tasks.export import manifest
from smallvision.tasks.export.manifest import FILE, Export, read

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
    manifest.write(tmp_path, [export])
    return tmp_path, export


def test_what_was_written_is_read(written):
    folder, export = written
    assert read(folder, FILES, "0123") == [export]


def test_a_file_of_another_network_or_changed_or_missing_is_left_out(written):
    folder, _ = written
    assert read(folder, FILES, "4567") == []
    (folder / "model.onnx").write_bytes(b"another network")
    assert read(folder, FILES, "0123") == []
    (folder / "model.onnx").unlink()
    assert read(folder, FILES, "0123") == []


def test_malformed_entries_are_ignored(written):
    folder, export = written
    entry = json.loads((folder / FILE).read_text())[0]
    manifest.write(folder, [replace(export, file="../model.onnx")])
    assert read(folder, FILES, "0123") == []
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
        assert read(folder, FILES, "0123") == []
    (folder / FILE).write_text(json.dumps([*wrong, entry]))
    assert read(folder, FILES, "0123") == [export]
    (folder / FILE).write_text(" " * manifest.MAX_BYTES + json.dumps([entry]))
    assert read(folder, FILES, "0123") == []
