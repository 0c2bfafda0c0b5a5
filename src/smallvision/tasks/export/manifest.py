"""exports.json: the files that were exported into a directory, and how each was verified."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from smallvision.core.run_dir import write_text

FILE = "exports.json"
MAX_BYTES = 1_000_000
TYPES: dict[Any, tuple[type, ...]] = {
    str: (str,), int: (int,), float: (int, float), str | None: (str, type(None)),
}  # fmt: skip


@dataclass(frozen=True)
class Export:
    """One file. ``of``: the identity of the network (see metadata.identity); ``difference``: the largest between
    two probabilities on the ``images`` of verification; ``agreed``: how many of them get the same class;
    ``batches``: the sizes of the batches; ``caution``: why the images are not test images of the chosen data;
    ``seconds``: to write and verify it.
    """

    format: str
    file: str
    bytes: int
    sha256: str
    of: str
    difference: float
    agreed: int
    images: int
    batches: str
    compared_on: str
    caution: str | None
    runtime: str
    seconds: float


def read(folder: Path, files: dict[str, str], of: str) -> list[Export]:
    """The exports in ``folder`` of the network ``of`` whose files are as they were written.

    ``files``: their names by format. A manifest that is missing or malformed is ignored.
    """
    manifest = folder / FILE
    try:
        if manifest.stat().st_size > MAX_BYTES:
            return []
        entries = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    exports = {}
    for entry in entries if isinstance(entries, list) else []:
        export = _parse(entry)
        if export is None or export.of != of or files.get(export.format) != export.file:
            continue
        if _sha256(folder / export.file) == export.sha256:
            exports[export.format] = export
    return list(exports.values())


def write(folder: Path, exports: list[Export]) -> None:
    write_text(folder / FILE, json.dumps([asdict(export) for export in exports], indent=2) + "\n")


def _parse(entry: Any) -> Export | None:
    """None where a field is missing, unknown or of another type."""
    if not isinstance(entry, dict) or entry.keys() != {field.name for field in fields(Export)}:
        return None
    for field in fields(Export):
        value = entry[field.name]
        if not isinstance(value, TYPES[field.type]) or isinstance(value, bool):
            return None
    return Export(**entry)


def _sha256(file: Path) -> str | None:
    digest = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(2**20):
                digest.update(chunk)
    except OSError:
        return None
    return digest.hexdigest()
