"""Downloads: once, complete or not at all, and given up within seconds where there is no network."""

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
    """The files could not be downloaded; the message gives the reason briefly."""


def download_into(
    folder: Path, urls: Sequence[str], get: Callable[[Path], None], complete: Callable[[], object]
) -> None:
    """Fill ``folder`` by ``get(scratch)`` unless ``complete()``; files appear in it only when complete.

    ``get`` downloads and checks the files in a scratch folder, from which each is then renamed into ``folder``.
    One process downloads, under a lock, while others wait and then find the files. ``urls``, the mirrors, are
    probed first, so that a dead network costs seconds.

    Raises Offline where the files cannot be downloaded, UserError where ``folder`` cannot be written.
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
            with _stall_timeout():
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
        raise Offline(f"the download failed: {_reason(error)}") from None
    # What torchvision's downloads raise; HTTPException: the answer is not HTTP, or is cut off.
    except (RuntimeError, EOFError, http.client.HTTPException) as error:
        raise Offline(f"the download failed: {_reason(error)}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _probe(urls: Sequence[str]) -> None:
    """Raise Offline unless something answers at one of ``urls``, through the user's proxy if there is one.

    In threads, because looking up a host's name has no timeout.
    """
    outcomes: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for url in urls:
        threading.Thread(target=_request_head, args=(url, outcomes), daemon=True).start()
    deadline = time.monotonic() + PROBE_SECONDS
    failure: str | None = None
    for _ in urls:
        try:
            failure = outcomes.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            break
        if failure is None:
            return
    raise Offline(f"no network: {failure}" if failure else f"no answer within {PROBE_SECONDS:g} s")


def _request_head(url: str, outcomes: "queue.SimpleQueue[str | None]") -> None:
    """Put None where anything answers at ``url``, else the reason why not."""
    try:
        request = urllib.request.Request(url, method="HEAD")
        urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
    except urllib.error.HTTPError:
        outcomes.put(None)  # an error is an answer
    except (OSError, ValueError, http.client.HTTPException) as error:
        outcomes.put(_reason(error))
    else:
        outcomes.put(None)


@contextmanager
def _stall_timeout() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALL_SECONDS)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    text = getattr(reason, "strerror", None) or str(reason) or type(error).__name__
    return text.strip().splitlines()[0]
