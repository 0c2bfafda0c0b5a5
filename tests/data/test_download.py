"""Downloads from a small server on this machine, by torchvision's own code."""

import contextlib
import gzip
import hashlib
import multiprocessing
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Barrier
from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from smallvision.core.errors import UserError
from smallvision.data import standard
from smallvision.data.standard import Offline, download_into

SHAPES = {
    "train-images-idx3-ubyte.gz": (30, 28, 28), "train-labels-idx1-ubyte.gz": (30,),
    "t10k-images-idx3-ubyte.gz": (20, 28, 28), "t10k-labels-idx1-ubyte.gz": (20,),
}  # fmt: skip


def packed(shape: tuple[int, ...]) -> bytes:
    numbers = np.arange(np.prod(shape), dtype=np.int64) % 10
    head = struct.pack(f">I{len(shape)}I", 0x800 + len(shape), *shape)
    return gzip.compress(head + numbers.astype(np.uint8).tobytes(), mtime=0)


FILES = {name: packed(shape) for name, shape in SHAPES.items()}
RESOURCES = [(name, hashlib.md5(content).hexdigest()) for name, content in FILES.items()]


class Server(ThreadingHTTPServer):
    """Serves ``files``; ``served`` counts how often each was."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = dict(FILES)
        self.served: Counter[str] = Counter()
        self.url = f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        # torchvision follows redirects by a GET that names the method HEAD in a header, and reads nothing.
        self.answer(body=self.headers.get("Method") != "HEAD")

    def answer(self, body: bool) -> None:
        assert isinstance(self.server, Server)
        name = self.path.lstrip("/")
        content = self.server.files.get(name)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if body and content is not None:
            self.server.served[name] += 1
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server that torchvision takes for the mirror of MNIST."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setattr(datasets.MNIST, "mirrors", [server.url])
        monkeypatch.setattr(datasets.MNIST, "resources", RESOURCES)
        yield server
        server.shutdown()


@pytest.fixture
def dead_url() -> str:
    """Where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/"


@pytest.fixture
def silent_url() -> Iterator[str]:
    """Where connections are accepted and never answered."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"


@pytest.fixture
def gibberish_url() -> Iterator[str]:
    """Where the answer is not HTTP, as from some hotels' networks."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def answer() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"welcome!\r\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def test_the_four_files_are_downloaded_once_and_found_the_next_time(server: Server, tmp_path: Path) -> None:
    first = standard.mnist(str(tmp_path / "new" / "folder"))
    assert server.served == dict.fromkeys(FILES, 1)
    assert first.train_images.shape == (30, 1, 28, 28)
    raw = tmp_path / "new" / "folder" / "MNIST" / "raw"
    assert {file.name: file.read_bytes() for file in raw.iterdir()} == FILES
    assert standard.mnist(str(tmp_path / "new" / "folder")).fingerprint == first.fingerprint
    assert server.served == dict.fromkeys(FILES, 1)


def test_a_download_leaves_no_scratch_behind(server: Server, tmp_path: Path) -> None:
    standard.mnist(str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {"MNIST", ".download.lock"}


def test_files_that_are_there_already_do_not_keep_the_missing_ones_away(server: Server, tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    name = "train-images-idx3-ubyte.gz"
    (raw / name).write_bytes(FILES[name][:50])
    assert len(standard.mnist(str(tmp_path)).train_images) == 30


def test_a_dead_mirror_does_not_hide_one_that_answers(
    server: Server, dead_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [dead_url, server.url])
    assert len(standard.mnist(str(tmp_path), offline="error").train_images) == 30


def test_fashion_mnist_asks_its_own_mirror(
    server: Server, dead_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [dead_url])
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [server.url])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", RESOURCES)
    assert len(standard.fashion_mnist(str(tmp_path), offline="error").train_images) == 30


def fingerprint_at_once(data_dir: str, start: Barrier, results: "SimpleQueue[str]") -> None:
    start.wait(60)
    results.put(standard.mnist(data_dir, offline="error").fingerprint)


def test_two_processes_that_start_at_once_download_once_and_load_the_same(server: Server, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(2), context.SimpleQueue()
    processes = [context.Process(target=fingerprint_at_once, args=(str(tmp_path), start, results)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    first, second = results.get(), results.get()
    assert first == second
    assert len(first) == 16
    assert server.served == dict.fromkeys(FILES, 1)


@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_download_is_not_kept_and_the_reason_given(server: Server, tmp_path: Path, damage: str) -> None:
    name = "t10k-images-idx3-ubyte.gz"
    content = server.files.pop(name)
    if damage != "missing":
        server.files[name] = content[:-9] if damage == "truncated" else content[:-9] + b"x" + content[-8:]
    data = standard.mnist(str(tmp_path))
    assert data.stand_in_for == "mnist"
    assert "the download failed" in data.source
    assert [path.name for path in tmp_path.rglob("*") if path.name != ".download.lock"] == []
    with pytest.raises(UserError, match=r"data=mnist: not found and not downloaded \(the download failed"):
        standard.mnist(str(tmp_path), offline="error")


def test_without_a_network_there_is_a_stand_in_or_a_refusal(
    dead_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [dead_url])
    data = standard.mnist(str(tmp_path), offline="stand_in")
    assert (data.name, data.stand_in_for) == ("digits", "mnist")
    assert "no network" in data.source
    with pytest.raises(UserError, match="no network") as refused:
        standard.mnist(str(tmp_path), offline="error")
    assert str(tmp_path) in str(refused.value)


def test_a_server_that_never_answers_is_given_up(
    silent_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standard, "PROBE_SECONDS", 0.2)
    asked = []
    with pytest.raises(Offline, match=r"no answer within 0\.2 s|timed out"):
        download_into(tmp_path, [silent_url], asked.append, lambda: False)
    assert asked == []


def test_a_server_that_falls_silent_in_the_middle_is_given_up(
    silent_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mirror answers the first request and no other."""
    monkeypatch.setattr(standard, "STALL_SECONDS", 0.2)
    monkeypatch.setattr(standard, "_probe", lambda urls: None)
    monkeypatch.setattr(datasets.MNIST, "mirrors", [silent_url])
    before = socket.getdefaulttimeout()
    data = standard.mnist(str(tmp_path))
    assert "the download failed" in data.source
    assert socket.getdefaulttimeout() == before


def test_an_answer_that_is_not_http_counts_as_no_network(
    gibberish_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [gibberish_url])
    assert "no network" in standard.mnist(str(tmp_path)).source
    monkeypatch.setattr(standard, "_probe", lambda urls: None)
    assert "the download failed" in standard.mnist(str(tmp_path)).source


def test_files_that_another_process_completed_are_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    asked = []
    download_into(tmp_path, [server.url], asked.append, lambda: True)
    assert asked == []


def test_files_appear_only_after_all_of_them_are_downloaded(server: Server, tmp_path: Path) -> None:
    seen = []

    def get(scratch: Path) -> None:
        (scratch / "sub").mkdir()
        for name in ("a", "sub/b"):
            (scratch / name).write_text(name)
            seen.append((tmp_path / name).exists())

    download_into(tmp_path, [server.url], get, lambda: False)
    assert seen == [False, False]
    assert (tmp_path / "a").read_text() == "a"
    assert (tmp_path / "sub" / "b").read_text() == "sub/b"


def test_a_folder_that_cannot_be_made_is_refused_by_its_key(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"data_dir=.*file/data: cannot be written \(Not a directory\)"):
        standard.mnist(str(tmp_path / "file" / "data"))
