"""Which pictures `images=` names: files, folders, globs, lists of them, or standard input."""

import glob
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from smallvision.data.pictures import FORMATS, SUFFIXES
from smallvision.errors import Refusal

ALL_SUFFIXES = SUFFIXES | {".jfif", ".jpe", ".apng", ".pbm", ".pnm"}
MOST_BYTES = 64 * 2**20  # of standard input
MOST_LETTERS = 200  # of what was typed, where it is said again


@dataclass(frozen=True)
class Source:
    """``content``: a file, or the bytes of one that came in; ``error``: why it can be neither."""

    name: str
    content: Path | bytes
    error: str | None = None


@dataclass(frozen=True)
class Gathered:
    """``passed_over``: files in folders that are no pictures by their names."""

    sources: list[Source]
    passed_over: int = 0


def gather(images: str | list[str], stdin: BinaryIO) -> Gathered:
    """Every picture that ``images`` names, each file once, folders and globs in order of their names.

    Raises Refusal where there is nothing of all that.
    """
    found: dict[str, Source] = {}
    passed_over = 0
    for word in [images] if isinstance(images, str) else images:
        for one in _standard_input(stdin) if word == "-" else _expanded(word):
            if isinstance(one, Source):
                found.setdefault(one.name, one)
                continue
            here = _of_folder(one) if os.path.isdir(one) else Gathered([Source(one, Path(one))])  # noqa: PTH112
            passed_over += here.passed_over
            for source in here.sources:
                found.setdefault(source.name, source)
    sources = list(found.values())
    if all(source.error is not None for source in sources):
        raise Refusal(none_read(images, sources[0].name, str(sources[0].error), len(sources)))
    return Gathered(sources, passed_over)


def none_read(images: str | list[str], name: str, reason: str, count: int) -> str:
    """One line for when none of ``count`` can be read; ``name`` and ``reason``: the first one's."""
    typed = images if isinstance(images, str) else f"[{','.join(images)}]"
    typed = typed if len(typed) <= MOST_LETTERS else f"{typed[:MOST_LETTERS]}..."
    named = "" if name == images else f"{name}: "
    others = f"; nor can {count - 1:,} others" if count > 1 else ""
    return f"images={typed}: cannot be read: {named}{reason}{others}"


def _expanded(word: str) -> list[str | Source]:
    """The paths that there are by that name or pattern."""
    place = os.path.expanduser(word)  # noqa: PTH111 - Path's own raises for an unknown user
    if os.path.lexists(place):
        return [place]
    matches: list[str | Source] = []
    if glob.has_magic(place):
        matches += sorted(glob.glob(place, recursive=True))
    missing = "nothing matches" if glob.has_magic(place) else "no such file or folder"
    return matches or [Source(word, b"", missing)]


def _of_folder(root: str) -> Gathered:
    """Its pictures by their names, and those of its subfolders; nothing that is hidden.

    A file without a suffix counts where it opens as a picture does.
    """
    sources, passed_over = [], 0
    failed: list[OSError] = []
    for place, folders, files in os.walk(root, onerror=failed.append):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        for name in files:
            file = Path(place, name)
            if name.startswith("."):
                continue
            if file.suffix.lower() in ALL_SUFFIXES or (not file.suffix and _opens_as_picture(file)):
                sources.append(Source(str(file), file))
            else:
                passed_over += 1
    sources += [Source(str(e.filename), b"", f"cannot be opened ({e.strerror})") for e in failed]
    if not sources:
        sources = [Source(root, b"", "a folder without pictures")]
    return Gathered(sorted(sources, key=lambda source: source.name), passed_over)


def _opens_as_picture(content: Path | bytes) -> bool:
    if isinstance(content, Path) and not os.path.isfile(content):  # noqa: PTH113 - Path's own may raise
        return False
    try:
        with Image.open(content if isinstance(content, Path) else io.BytesIO(content), formats=FORMATS):
            return True
    except Exception:  # damage can surface as any kind
        return False


def _standard_input(stdin: BinaryIO) -> list[str | Source]:
    """The picture that comes in, or the files and folders that its lines (or NULs between them) name.

    What is no text is taken for a picture, which may yet turn out to be none.
    """
    if stdin.isatty():
        raise Refusal("images=-: standard input is a terminal; send it a picture, or names of files")
    try:
        content = stdin.read(MOST_BYTES + 1)
    except OSError as error:
        raise Refusal(f"images=-: standard input cannot be read ({error.strerror})") from None
    if len(content) > MOST_BYTES:
        raise Refusal(f"images=-: more than {MOST_BYTES // 2**20} MiB on standard input")
    if not content.strip():
        raise Refusal("images=-: nothing on standard input")
    text = re.fullmatch(rb"[^\x01-\x08\x0b\x0c\x0e-\x1f]*", content) is not None
    if not text or _opens_as_picture(content):
        return [Source("standard input", content)]
    names = [name for name in re.split(r"\0|\r?\n", os.fsdecode(content)) if name]
    named = [os.path.expanduser(name) for name in names]  # noqa: PTH111 - Path's own may raise
    return [
        path if os.path.lexists(path) else Source(name, b"", "no such file or folder")
        for name, path in zip(names, named, strict=True)
    ]
