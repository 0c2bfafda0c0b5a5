"""Files as arrays, whose bytes are read where they are used and need not all fit into memory. Needs no torch."""

import mmap
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet, finalize

import numpy as np
import numpy.typing as npt

from smallvision.core.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

RESIDENT = 2**26  # bytes of a map that may count as this process's memory
NORESERVE = 0x4000 if hasattr(mmap, "MADV_DONTNEED") else 0  # Linux's MAP_NORESERVE, which Python names from 3.13 on

# What zipfile and numpy raise over damaged files: RuntimeError where a flag says encrypted or a method is
# unknown, MemoryError where a header claims more than there is.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
    SyntaxError, tokenize.TokenError,
)  # fmt: skip


class MemoryMap(mmap.mmap):
    """A file, private to this process: what is written here does not reach the file."""

    name, file = "", -1  # and its descriptor
    address = 0  # of the first byte
    used = 0  # bytes read since the last release, at most

    def use(self, count: int) -> None:
        """Count bytes as read; when they are many, the process releases its pages, which stay in the page cache."""
        self.used += count
        if self.used > RESIDENT < len(self) and NORESERVE:
            self.madvise(mmap.MADV_DONTNEED)
            self.used = 0

    def take(self, images: "Tensor", rows: "Tensor") -> "Tensor":
        """``images[rows]`` of images that lie in the map, read from the file: a page fault would map far more than an
        image. Raises UserError where the file has become shorter.
        """
        channels_last = not images.is_contiguous()
        stored = images.permute(0, 2, 3, 1) if channels_last else images
        if not stored.is_contiguous():
            return images[rows]
        taken = stored.new_empty((len(rows), *stored.shape[1:]))
        size, start, view = stored[:1].nbytes, images.data_ptr() - self.address, taken.view(-1).numpy().data
        for index, row in enumerate(rows.tolist()):
            if os.preadv(self.file, [view[index * size : (index + 1) * size]], start + row * size) != size:
                raise UserError(f"{self.name}: was changed while it was read")
        return taken.permute(0, 3, 1, 2) if channels_last else taken


_maps: WeakSet[MemoryMap] = WeakSet()


def map_file(file: Path) -> npt.NDArray[np.uint8]:
    """Its bytes. Raises OSError or ValueError where it cannot be mapped."""
    flags, access = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE  # torch warns of read-only ones
    with file.open("rb") as stream:
        mapped = MemoryMap(stream.fileno(), 0, flags=flags, prot=access)
        array = np.frombuffer(mapped, np.uint8)
        mapped.name, mapped.file, mapped.address = str(file), os.dup(stream.fileno()), array.ctypes.data
    finalize(mapped, os.close, mapped.file)
    _maps.add(mapped)
    return array


def find_map(address: int) -> MemoryMap | None:
    """The map that this address lies in; None: it is one of memory."""
    return next((one for one in _maps if one.address <= address < one.address + len(one)), None)
