"""Files as arrays, whose bytes are read where they are used and need not all fit into memory. Needs no torch."""

import mmap
import zipfile
import zlib
from pathlib import Path
from weakref import WeakSet

import numpy as np
import numpy.typing as npt

from smallvision.core.system import available_memory

RESIDENT = 2**28  # bytes of a map that may count as this process's memory
FAULT = 2**16  # bytes that Linux maps around one that is read
NORESERVE = 0x4000 if hasattr(mmap, "MADV_DONTNEED") else 0  # Linux's MAP_NORESERVE, which Python names from 3.13 on

# What zipfile and numpy raise over damaged files: RuntimeError where a flag says encrypted or a method is
# unknown, MemoryError where a header claims more than there is.
UNREADABLE = (
    OSError, ValueError, EOFError, KeyError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class MemoryMap(mmap.mmap):
    """A file, private to this process: what is written here does not reach the file."""

    address = 0  # of the first byte
    used = 0  # bytes read since the last release, at most

    def use(self, count: int) -> None:
        """Count bytes as read; when they are many, the process releases its pages, which stay in the page cache."""
        self.used += count
        if self.used > RESIDENT < len(self) and NORESERVE:
            self.madvise(mmap.MADV_DONTNEED)
            self.used = 0

    def expect(self, advice: int) -> None:
        """How a file that exceeds the memory is read from now on. Of others the system reads what lies around, too."""
        if len(self) > available_memory():
            self.madvise(advice)


_maps: WeakSet[MemoryMap] = WeakSet()


def map_file(file: Path) -> npt.NDArray[np.uint8]:
    """Its bytes. Raises OSError or ValueError where it cannot be mapped."""
    with file.open("rb") as stream:
        flags, access = mmap.MAP_PRIVATE | NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE  # torch warns of read-only ones
        mapped = MemoryMap(stream.fileno(), 0, flags=flags, prot=access)
    array = np.frombuffer(mapped, np.uint8)
    mapped.address = array.ctypes.data
    _maps.add(mapped)
    return array


def find_map(address: int) -> MemoryMap | None:
    """The map that this address lies in; None: it is one of memory."""
    return next((one for one in _maps if one.address <= address < one.address + len(one)), None)
