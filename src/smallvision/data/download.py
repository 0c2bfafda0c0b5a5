"""Downloads: once, whole, and over within seconds where there is no network."""

import shutil
import socket
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from smallvision.errors import Refusal

PROBE_SECONDS = 5.0
STALL_SECONDS = 15.0


class Offline(Exception):
    """The files could not be had; the message says why in a few words."""


def download_into(folder: Path, url: str, get: Callable[[Path], None], complete: Callable[[], bool]) -> None:
    """Fill ``folder`` by ``get(scratch)`` unless ``complete()``; files appear in it only when whole.

    ``get`` downloads into a scratch folder (and checks what it got); its tree is then moved into
    ``folder`` file by file, each in one rename. A lock lets one process download while others wait, and
    those find the files there. ``url`` is asked first, so that a dead network costs seconds.

    Raises Offline where the network does not give the files, Refusal where ``folder`` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".download-", dir=folder))
    except OSError as error:
        raise Refusal(
            f"data_dir={folder}: cannot be written ({error.strerror}), so nothing can be downloaded there;"
            " use data_dir=FOLDER with one that can"
        ) from None
    try:
        _probe(url)
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
    except (OSError, RuntimeError, EOFError) as error:  # what torchvision's downloads raise
        raise Offline(f"the download failed: {_words(error)}") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _probe(url: str) -> None:
    """Raise Offline unless something answers at ``url``, through the user's proxy if there is one.

    In a thread of its own: looking up a host's name knows no time limit.
    """
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=PROBE_SECONDS).close()
        except urllib.error.HTTPError:
            outcome.append(None)  # it answers
        except (OSError, ValueError) as error:
            outcome.append(_words(error))
        else:
            outcome.append(None)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    if not outcome:
        raise Offline(f"no answer within {PROBE_SECONDS:g} s")
    if outcome[0]:
        raise Offline(f"no network: {outcome[0]}")


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
