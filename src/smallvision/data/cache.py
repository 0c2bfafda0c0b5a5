"""Decoded images, kept in a file of ``data_dir/cache`` that is mapped into memory. Needs no torch.

The file of a folder and its options is the pixels, N x C x H x W, and after them an npz archive of what else
:class:`DecodedImages` has. Where it is not as it was written, or images have changed, it is written anew; the pixels of
images that have not changed are copied.
"""

import errno
import hashlib
import io
import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import PIL
from filelock import FileLock, Timeout
from numpy.lib.npyio import NpzFile
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.run_dir import SCRATCH, atomic_write, folder_name
from smallvision.core.system import available_memory, cores
from smallvision.data.image_files import UnreadableImage, flatten_alpha, open_image, stretch
from smallvision.data.memory_map import UNREADABLE, find_map, map_file

OURS = re.compile(rf"\.?[\w-]+-[0-9a-f]{{16}}\.images(\.[0-9a-f]{{8}}\{SCRATCH})?")
LOCK, TAG = ".lock", "CACHEDIR.TAG"  # by the latter backups know a cache
FORMAT = f"1, Pillow {PIL.__version__}"  # another Pillow may decode otherwise
BATCH_IMAGES, BATCH_BYTES = 64, 2**22  # that a thread decodes at a time
SAMPLE = 500  # images by which the disk is timed
CHANGED = -1  # instead of a file's size: to be decoded at every start
NAMED = 20  # broken images
Numbers = npt.NDArray[np.int64]
Batch = tuple[npt.NDArray[Any], Numbers, dict[int, UnreadableImage]]  # pixels, sums, errors by row


class ImageFiles(NamedTuple):
    """Those below ``root``, the ``train`` training images first, to be stretched to ``shape``: channels, height, width.

    ``stats``: N x 3, each file's bytes and the times, in ns, of the last change of its content and of anything.
    """

    root: Path
    names: list[str]
    stats: Numbers
    train: int
    shape: tuple[int, int, int]

    @property
    def bytes(self) -> int:
        """Of all pixels."""
        return len(self.names) * math.prod(self.shape)


class DecodedImages(NamedTuple):
    """``sums``: N x C x 2, of the pixels of each image and of their squares. ``digests``: SHA-256 of the training
    images and of the test images. ``names`` and ``stats``: as in :class:`ImageFiles`.
    """

    images: npt.NDArray[np.uint8]
    sums: Numbers
    digests: list[str]
    names: list[str]
    stats: Numbers


def load(files: ImageFiles, file: Path | None) -> DecodedImages:
    """The images out of the cache's ``file``, which is written first where that is needed; None: decoded into memory.

    Raises UserError, naming a broken image, and where neither the disk nor the memory has room.
    """
    if file is not None:
        try:
            found = _up_to_date(file, files)
            if found is None:
                with _locked(file.parent):
                    found = _up_to_date(file, files)  # another process may have written it
                    if found is None:
                        _write(file, files)
            found = found or _up_to_date(file, files)
            if found is None:
                raise OSError(errno.EIO, "the file is not as it was written")
            _report_disk(found, file)
            return found
        except OSError as error:
            kept = f"data_dir={file.parents[1]}: cannot keep {files.bytes / 1e6:,.1f} MB of images ({error.strerror})"
            if files.bytes > available_memory() // 2:
                raise UserError(f"{kept}; use data_dir=FOLDER with room") from None
            Console().print(f"  note       {kept}; every start decodes them", style="yellow")
    stream = io.BytesIO()
    sums, digests, broken = _decode(files, None, stream)
    _refuse(files, broken)
    images = np.frombuffer(stream.getbuffer(), np.uint8).reshape(-1, *files.shape)
    return DecodedImages(images, sums, digests, files.names, files.stats)


def _up_to_date(file: Path, files: ImageFiles) -> DecodedImages | None:
    found = _read(file, files.shape)
    same = found is not None and found.names == files.names and np.array_equal(found.stats, files.stats)
    return found if same and CHANGED not in files.stats[:, 0] else None


def _read(file: Path, shape: tuple[int, int, int]) -> DecodedImages | None:
    """What the file holds; None where it is not there or not as it was written."""
    try:
        with file.open("rb") as stream, NpzFile(stream) as stored:
            header, names = json.loads(str(stored["header"])), os.fsdecode(stored["names"].tobytes()).split("\0")
            stats, sums = stored["stats"], stored["sums"]
        images = map_file(file)[: len(names) * math.prod(shape)].reshape(-1, *shape)
        # Whoever writes into the file gives it another time.
        written = header["written"] * 10**9 == file.stat().st_mtime_ns and header["format"] == FORMAT
        whole = len(images) == len(stats) == len(sums) == len(names)
        return DecodedImages(images, sums, header["digests"], names, stats) if written and whole else None
    except (*UNREADABLE, TypeError):
        return None


def _write(file: Path, files: ImageFiles) -> None:
    """Decode into the file. It gets all images but broken ones, for which UserError is raised."""
    names, written = np.frombuffer(os.fsencode("\0".join(files.names)), np.uint8), int(time.time())
    with atomic_write(file) as scratch:
        with scratch.open("rb+") as stream:
            _reserve(stream.fileno(), files.bytes)
            sums, digests, broken = _decode(files, _read(file, files.shape), stream)
            stats = files.stats.copy()
            stats[[*broken], 0] = CHANGED
            header = json.dumps({"format": FORMAT, "written": written, "digests": digests})
            np.savez(stream, header=header, names=names, stats=stats, sums=sums)
        os.utime(scratch, (written, written))
    _refuse(files, broken)
    Console().fields({"decoded": f"into {file}, {file.stat().st_size / 1e6:,.1f} MB, which task=clean removes"})


def _reserve(file: int, size: int) -> None:
    """Raise OSError where the disk has no room, now and not after an hour of decoding."""
    try:
        os.posix_fallocate(file, 0, size)
    except AttributeError:  # not on macOS
        pass
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise


def _refuse(files: ImageFiles, broken: dict[int, UnreadableImage]) -> None:
    """Raise UserError where there are any."""
    if broken:
        first, *others = broken
        named = ", ".join(files.names[row] for row in others[: NAMED - 1]) + ", ..." * (len(broken) > NAMED)
        raise UserError(f"{broken[first]}" + f", the first of {len(broken):,} such files: {named}" * bool(others))


def _decode(
    files: ImageFiles, old: DecodedImages | None, stream: BinaryIO
) -> tuple[Numbers, list[str], dict[int, UnreadableImage]]:
    """Write the pixels to ``stream``, those of ``old`` where a file has not changed.

    Gives sums and digests as in :class:`DecodedImages`, and by their rows the errors of broken images, which are 0.
    """
    count, console = len(files.names), Console()
    rows = np.full(count, -1)  # in the old ones
    if old is not None:
        by_name = {name: row for row, name in enumerate(old.names)}
        rows = np.array([by_name.get(name, -1) for name in files.names])
        rows[(old.stats[rows] != files.stats).any(1) | (files.stats[:, 0] == CHANGED)] = -1
    console.fields({"decoding": f"{(rows < 0).sum():,} of {count:,} images of {files.root}"})
    bar = Progress(
        TextColumn("  decoding"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("left"),
        console=console.terminal, transient=True, disable=console.silent or not console.terminal.is_terminal,
    )  # fmt: skip
    task = bar.add_task("", total=count)
    step = max(1, min(BATCH_IMAGES, BATCH_BYTES // math.prod(files.shape)))
    sums, totals = np.empty((count, files.shape[0], 2), np.int64), (hashlib.sha256(), hashlib.sha256())
    starts, waiting = deque(range(0, count, step)), deque[Future[Batch]]()
    broken: dict[int, UnreadableImage] = {}
    stopped = Event()
    pool = ThreadPoolExecutor(cores())  # Pillow decodes outside the interpreter's lock
    try:
        with bar:
            for done in range(0, count, step):
                while starts and len(waiting) < 2 * cores():  # not all at once: they take memory
                    start = starts.popleft()
                    waiting.append(pool.submit(_decode_batch, files, old, rows[start : start + step], start, stopped))
                images, sums[done : done + step], errors = waiting.popleft().result()
                stream.write(images.data)
                cut = max(0, files.train - done)
                totals[0].update(images[:cut].data)
                totals[1].update(images[cut:].data)
                broken |= errors
                bar.advance(task, len(images))
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)
    return sums, [total.hexdigest() for total in totals], broken


def _decode_batch(files: ImageFiles, old: DecodedImages | None, rows: Numbers, start: int, stopped: Event) -> Batch:
    """The images from ``start`` on; ``rows``: where they lie in ``old``, -1: to be decoded; 0 once ``stopped``."""
    (channels, *size), errors = files.shape, dict[int, UnreadableImage]()
    images = np.zeros((len(rows), *files.shape), np.uint8)
    for index, row in enumerate(rows):
        if stopped.is_set():
            break
        file = files.root / files.names[start + index]
        if old is not None and row >= 0:
            images[index] = old.images[row]
            continue
        try:
            with open_image(file, str(file)) as image:
                pixels = np.asarray(stretch(flatten_alpha(image), channels, (size[0], size[1])))
            images[index] = pixels.reshape(*size, channels).transpose(2, 0, 1)
        except UnreadableImage as error:
            errors[start + index] = error
    if old is not None and (mapped := find_map(old.images.ctypes.data)) is not None:
        mapped.use(images.nbytes)
    flat = images.reshape(*images.shape[:2], -1)
    squares = np.square(flat, dtype=np.uint16).sum(2, dtype=np.int64)
    return images, np.stack([flat.sum(2, dtype=np.int64), squares], 2), errors


def _report_disk(found: DecodedImages, file: Path) -> None:
    """Where the images do not fit into memory, print how many of them the disk gives and which size would fit."""
    images, available = found.images, available_memory()
    if images.nbytes <= available:
        return
    rows, started = np.random.default_rng(0).integers(0, len(images), SAMPLE), time.perf_counter()
    with file.open("rb") as stream:
        for row in rows:
            if hasattr(os, "posix_fadvise"):  # from the disk, not from the page cache
                os.posix_fadvise(stream.fileno(), row * images[0].nbytes, images[0].nbytes, os.POSIX_FADV_DONTNEED)
            os.pread(stream.fileno(), images[0].nbytes, row * images[0].nbytes)
    rate, fits = SAMPLE / (time.perf_counter() - started), math.isqrt(available // (len(images) * images.shape[1]))
    text = f"{images.nbytes / 1e6:,.0f} MB of images, more than the {available / 1e6:,.0f} MB of memory that are free"
    Console().fields({"disk": f"{text}: it gives {rate:,.0f} images/s; data.size={max(1, fits)} would fit"})


# The folder of all such files --------------------------------------------------------------------------------


def cache_folder(data_dir: str) -> Path:
    return Path(data_dir).expanduser() / "cache"


def cache_file(data_dir: str, root: Path, *options: object) -> Path:
    """Where the images of that folder are kept."""
    key = hashlib.sha256(json.dumps([str(root.resolve()), *options]).encode()).hexdigest()[:16]
    return cache_folder(data_dir) / f"{folder_name(str(root))[:40]}-{key}.images"


def clear(folder: Path) -> dict[Path, int]:
    """Remove the cache's files; gives their sizes in bytes. Raises UserError while one is being written."""
    try:
        if not folder.is_dir():
            return {}
        with FileLock(folder / LOCK, timeout=0):
            sizes = {file: file.stat().st_size for file in _ours(folder)}
            for file in sizes:
                file.unlink()
    except Timeout:
        raise UserError(f"{folder}: another process is decoding images into it; wait for its end") from None
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be removed ({error.strerror})") from None
    return sizes


def _ours(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.iterdir()) if OURS.fullmatch(file.name)]


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process writes, and first removes what a killed one has left. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        Console().fields({"waiting": f"for another process, which decodes images into {folder}"})
        lock.acquire()
    try:
        if not any(folder.glob("[!.]*")):  # nothing of anybody else's is in it
            (folder / TAG).write_text("Signature: 8a477f597d28d172789f06886806bc55\n")
        for file in _ours(folder):
            if file.suffix == SCRATCH:
                file.unlink()
        yield
    finally:
        lock.release()
