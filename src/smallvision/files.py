"""Files that are there whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SCRATCH = ".part"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a scratch file beside ``path`` to write; afterwards it is synced and renamed to ``path``.

    Where the block raises, ``path`` stays as it was and the scratch file is gone.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=SCRATCH, dir=path.parent)
    os.close(descriptor)
    scratch = Path(name)
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.chmod(0o644)
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def clear_scratch(folder: Path) -> None:
    """Remove what a killed process left half written in ``folder`` and below."""
    for scratch in folder.rglob(f".*{SCRATCH}"):
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8")
