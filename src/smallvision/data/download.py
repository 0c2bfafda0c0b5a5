"""Downloads: once, whole, and over within seconds where there is no network."""

import errno
import http.client
import queue
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from smallvision.core.errors import UserError

PROBE_SECONDS = 5.0
STALL_SECONDS = 15.0


class Offline(Exception):
    """The files could not be had; the message says why in a few words."""


def download_into(folder: Path, urls: Sequence[str], get: Callable[[Path], None], complete: Callable[[], bool]) -> None:
    """Fill ``folder`` by ``get(scratch)`` unless ``complete()``; files appear in it only when whole.

    ``get`` downloads into a scratch folder (and checks what it got); its tree is then moved into
    ``folder`` file by file, each in one rename. A lock lets one process download while others wait, and
    those find the files there. ``urls``, the mirrors, are asked first, so that a dead network costs
    seconds.

    Raises Offline where the network does not give the files, UserError where ``folder`` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    except OSError as error:
        raise UserError(
            f"data_dir={folder}: cannot be written ({error.strerror}), so nothing can be downloaded there;"
            " use data_dir=FOLDER with one that can"
        ) from None
    try:
        _probe(urls)
        with FileLock(folder / ".download.lock"):
            if complete():
                return
            with _no_endless_stall():
                get(scratch)
            for file in sorted(path for path in scratch.rglob("*") if path.is_file()):
                target = folder / file.relative_to(scratch)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.replace(target)
    except Offline:
        if not complete():
            raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise UserError(f"data_dir={folder}: {error.strerror}; use data_dir=FOLDER with room") from None
        raise Offline(f"the download failed: {_words(error)}") from None
    # What torchvision's downloads raise; HTTPException: what answers speaks no HTTP, or breaks off.
    except (RuntimeError, EOFError, http.client.HTTPException) as error:
        raise Offline(f"the download failed: {_words(error)}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _probe(urls: Sequence[str]) -> None:
    """Raise Offline unless something answers at one of ``urls``, through the user's proxy if there is one.

    In threads of their own: looking up a host's name knows no time limit.
    """
    outcomes: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask(url: str) -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            outcomes.put(None)  # it answers
        except (OSError, ValueError, http.client.HTTPException) as error:
            outcomes.put(_words(error))
        else:
            outcomes.put(None)

    for url in urls:
        threading.Thread(target=ask, args=(url,), daemon=True).start()
    until = time.monotonic() + PROBE_SECONDS
    said: str | None = None
    for _ in urls:
        try:
            said = outcomes.get(timeout=max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        if said is None:
            return
    raise Offline(f"no network: {said}" if said else f"no answer within {PROBE_SECONDS:g} s")


@contextmanager
def _no_endless_stall() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _words(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
    return text.strip().splitlines()[0]
