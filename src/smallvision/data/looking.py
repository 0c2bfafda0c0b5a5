"""Pictures are decoded and brought to a network's size, some at a time."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from smallvision.cores import cores
from smallvision.data.framing import Framed, Wanted, bring
from smallvision.data.gathering import Source
from smallvision.data.pictures import Unreadable, opened, thumbnail


@dataclass(frozen=True)
class Looked:
    """A picture as the network takes it and, where it is to be shown, as it was; or why it is neither."""

    source: Source
    framed: Framed | None = None
    small: Image.Image | None = None
    error: str | None = None


def look(source: Source, wanted: Wanted, shown: bool) -> Looked:
    """One picture; ``shown``: keep it small, too."""
    if source.error is not None:
        return Looked(source, error=source.error)
    try:
        with opened(source.content, source.name) as picture:
            return Looked(source, bring(picture, wanted), thumbnail(picture) if shown else None)
    except Unreadable as unreadable:
        return Looked(source, error=unreadable.reason)


def in_chunks(sources: Sequence[Source], wanted: Wanted, size: int, shown: int) -> Iterator[list[Looked]]:
    """All of them in order, ``size`` at a time; the first ``shown`` or more are kept small."""
    with ThreadPoolExecutor(max_workers=cores()) as pool:  # Pillow decodes outside the interpreter's lock
        for start in range(0, len(sources), size):
            part = sources[start : start + size]
            wants = [shown > 0] * len(part)
            looked = list(pool.map(look, part, [wanted] * len(part), wants))
            shown -= sum(one.framed is not None for one in looked)
            yield looked
