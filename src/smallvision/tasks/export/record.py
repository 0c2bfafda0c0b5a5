"""What was exported into a directory and how it was proven: exports.json, which the card is drawn from."""

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from smallvision.core.run_dir import write_text

FILE = "exports.json"
MOST_BYTES = 1_000_000
CHUNK = 2**20


@dataclass(frozen=True)
class Export:
    """One file. ``of``: what it was made of (see said.identity); ``difference``: the largest between two
    probabilities of the ``images`` that it was compared on; ``agreed``: how many of them get the same class;
    ``batches``: how many went in at once; ``caution``: why they were not the ones that were wanted;
    ``seconds``: to make it and to prove it.
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


def read(folder: Path, names: dict[str, str], of: str) -> list[Export]:
    """The exports in ``folder`` that are made of ``of`` and lie there as they were written.

    ``names``: of the file, by format. A record that is missing, or that a stranger wrote, counts for
    nothing.
    """
    file = folder / FILE
    try:
        if file.stat().st_size > MOST_BYTES:
            return []
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    found = {}
    for entry in entries if isinstance(entries, list) else []:
        export = _export(entry)
        if export is None or export.of != of or names.get(export.format) != export.file:
            continue
        if _digest(folder / export.file) == export.sha256:
            found[export.format] = export
    return list(found.values())


def write(folder: Path, exports: list[Export]) -> None:
    write_text(folder / FILE, json.dumps([asdict(export) for export in exports], indent=2) + "\n")


def _export(entry: Any) -> Export | None:
    """The entry, if every field of it is of its kind."""
    kinds: dict[Any, tuple[type, ...]] = {
        str: (str,), int: (int,), float: (int, float), str | None: (str, type(None))
    }  # fmt: skip
    if not isinstance(entry, dict) or entry.keys() != {field.name for field in fields(Export)}:
        return None
    for field in fields(Export):
        if not isinstance(entry[field.name], kinds[field.type]) or isinstance(entry[field.name], bool):
            return None
    return Export(**entry)


def _digest(file: Path) -> str | None:
    whole = hashlib.sha256()
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                whole.update(chunk)
    except OSError:
        return None
    return whole.hexdigest()
