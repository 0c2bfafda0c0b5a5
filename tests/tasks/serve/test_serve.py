"""A network answers over HTTP, to programs and to a real browser, within bounds."""

import asyncio
import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import browser
from helpers.command import NO_NETWORK, TRAIN
from helpers.forks import train
from PIL import Image
from starlette.responses import JSONResponse

from smallvision.tasks.serve import app

TYPED = ["serve.port=0", "serve.most=3", "serve.megabytes=0.5"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that learnt digits, standing in for mnist: it knows dark on light."""
    folder = tmp_path_factory.mktemp("served")
    process = train(folder, "trainer.max_epochs=6", "data_dir=none", "hydra.run.dir=run", "optimizer.lr=0.01")
    assert process.returncode == 0, process.stderr
    return folder / "run/checkpoints/best.ckpt"


def started(checkpoint: Path, *typed: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), "task=serve", f"checkpoint={checkpoint}", *typed],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=checkpoint.parent,
        env={**os.environ, **NO_NETWORK, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    said = ""
    assert process.stdout is not None
    for line in process.stdout:
        said += line
        if "Ctrl-C" in line:
            break
    address = re.search(r"page +(http://\S+)/", said)
    assert address, said
    return process, address[1]


@pytest.fixture(scope="module")
def served(checkpoint: Path) -> Iterator[str]:
    process, address = started(checkpoint, *TYPED)
    yield address
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0


def post(address: str, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(f"{address}/predict", body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def digit(ink: int = 0, ground: int = 255, kind: str = "PNG", size: tuple[int, int] = (120, 200)) -> bytes:
    """An upright bar: a one."""
    pixels = np.full(size, ground, np.uint8)
    pixels[size[0] // 5 : -size[0] // 5, size[1] // 2 - 6 : size[1] // 2 + 6] = ink
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def form(*files: bytes) -> tuple[bytes, str]:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="f"; filename="a%d.png"\r\n\r\n' % number + content + b"\r\n"
        for number, content in enumerate(files)
    ]
    return b"".join(parts) + b"--x--\r\n", "multipart/form-data; boundary=x"


def test_a_body_a_form_and_json_get_the_same_answer(served):
    picture = digit()
    status, said = post(served, picture, **{"Content-Type": "image/png"})
    assert status == 200
    (one,) = said["predictions"]
    assert one["class"] == said["classes"][int(np.argmax(one["probabilities"]))]
    assert sum(one["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert one["probability"] == max(one["probabilities"])
    assert one["polarity"] == "inverted"
    assert said["stand_in_for"] == "mnist"
    body, kind = form(picture, digit(255, 0))
    _, several = post(served, body, **{"Content-Type": kind})
    assert several["predictions"][0]["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6)
    assert several["predictions"][1]["polarity"] == "kept"
    text = base64.b64encode(picture).decode()
    for sent in ({"image": text}, {"images": [f"data:image/png;base64,{text}"]}):
        _, again = post(served, json.dumps(sent).encode(), **{"Content-Type": "application/json"})
        assert again["predictions"][0]["probabilities"] == one["probabilities"]


def test_a_picture_that_cannot_be_read_is_named_and_the_rest_is_answered(served):
    body, kind = form(digit(), b"no picture", b"")
    status, said = post(served, body, **{"Content-Type": kind})
    assert status == 200
    assert ["class" in one for one in said["predictions"]] == [True, False, False]
    assert "no PNG" in said["predictions"][1]["error"]
    status, said = post(served, b"no picture")
    assert status == 422
    assert "class" not in said["predictions"][0]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"", {}, 400, "no picture"),
        (b"x" * 600_000, {}, 413, "more than 0.5 MB"),
        (b"{}", {"Content-Type": "application/json"}, 400, "not of the form"),
        (b'{"images": 3}', {"Content-Type": "application/json"}, 400, "not of the form"),
        (b'{"images": ["%%%"]}', {"Content-Type": "application/json"}, 400, "not of the form"),
        (b"[" * 100_000, {"Content-Type": "application/json"}, 400, "not of the form"),
        (b'{"images": []}', {"Content-Type": "application/json"}, 400, "no picture"),
        (b'{"images": ["","","",""]}', {"Content-Type": "application/json"}, 413, "3 at a time"),
        (b"nonsense", {"Content-Type": "multipart/form-data; boundary=x"}, 400, ""),
        (b"nonsense", {"Content-Type": "multipart/form-data"}, 400, "not a form"),
        (form(*[b"x"] * 4)[0], {"Content-Type": form()[1]}, 413, "Too many files"),
        (b"x", {"Origin": "http://evil.example"}, 403, "another site"),
    ],
)
def test_what_is_out_of_bounds_is_refused_in_words(served, body, headers, status, words):
    found, said = post(served, body, **headers)
    assert found == status
    assert words in said["error"]


LARGE = 2_000_000  # bytes, more than the sockets' buffers hold and than serve.megabytes allows


def chunks(pause: float = 0.0) -> Iterator[bytes]:
    for _ in range(20):
        time.sleep(pause)
        yield b"x" * (LARGE // 20)


@pytest.mark.parametrize("pause", [0.0, 0.05])
@pytest.mark.parametrize("headers", [{"Content-Length": str(LARGE)}, {"Transfer-Encoding": "chunked"}])
def test_urllib_sees_that_its_body_is_too_large(served, headers, pause):
    request = urllib.request.Request(f"{served}/predict", chunks(pause), headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 413
    assert json.load(caught.value) == {"error": "more than 0.5 MB"}


@pytest.mark.parametrize("chunked", [False, True])
def test_requests_sees_that_its_body_is_too_large(served, chunked):
    requests = pytest.importorskip("requests")
    for headers in ({}, {"Connection": "close"}):
        body = chunks() if chunked else b"x" * LARGE
        answer = requests.post(f"{served}/predict", data=body, headers=headers, timeout=30)
        assert (answer.status_code, answer.json()) == (413, {"error": "more than 0.5 MB"})


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
@pytest.mark.parametrize(
    "typed",
    [[], ["-H", "Transfer-Encoding: chunked"], ["-H", "Connection: close"], ["-H", "Expect:"], ["--limit-rate", "2M"]],
)
def test_curl_sees_that_its_body_is_too_large(served, tmp_path, typed):
    (tmp_path / "large").write_bytes(b"x" * LARGE)
    process = subprocess.run(
        ["curl", "--silent", "--show-error", "--data-binary", "@large", *typed, f"{served}/predict"],
        cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (process.stdout, process.stderr) == ('{"error":"more than 0.5 MB"}', "")


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_other_refusals_are_seen_by_clients_that_still_send_too(served, headers):
    request = urllib.request.Request(f"{served}/predict", b"x" * LARGE, headers)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code in (400, 403)


async def refuses(scope: Any, receive: Any, send: Any) -> None:
    await JSONResponse({}, 413)(scope, receive, send)


@pytest.mark.parametrize("pause", [0.0, 60.0])
def test_what_is_read_after_the_answer_is_bounded_in_bytes_and_in_time(monkeypatch, pause):
    monkeypatch.setattr(app, "LINGER_BYTES", 1000)
    monkeypatch.setattr(app, "LINGER_SECONDS", 0.1)
    read, sent = [], []

    async def receive() -> dict[str, Any]:
        assert sent[-1]["body"] == b"{}"  # answered before
        read.append(100)
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": b"x" * 100, "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app.LingeringClose(refuses)({"type": "http"}, receive, send))
    assert sum(read) == (100 if pause else 1000)
    assert [message.get("more_body", False) for message in sent] == [False, True, False]


def test_another_name_for_this_machine_is_turned_away(served):
    request = urllib.request.Request(served + "/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=30)
    assert caught.value.code == 400


def test_one_draws_and_sees_the_probabilities_move(served, tmp_path):
    with browser(tmp_path / "profile") as page:
        page.open(served + "/")
        assert "Not mnist." in page.value("document.body.innerText")
        box = page.value("JSON.stringify(document.getElementById('canvas').getBoundingClientRect())")
        left, top, side = (json.loads(box)[name] for name in ("left", "top", "width"))
        page.mouse("mousePressed", left + side / 2, top + side / 5)
        for step in range(1, 13):
            page.mouse("mouseMoved", left + side / 2, top + side * (0.2 + 0.05 * step))
        page.mouse("mouseReleased", left + side / 2, top + side * 0.8)
        page.until("document.getElementById('words').textContent.includes('probability')")
        page.until("document.querySelector('#bars tr.first')")
        shares = page.value("[...document.querySelectorAll('#bars td.n')].map((one) => parseFloat(one.textContent))")
        assert len(shares) == 10
        assert sum(shares) == pytest.approx(100, abs=1)
        assert "inverted" in page.value("document.getElementById('frame').textContent")
        assert page.value("document.getElementById('seen').naturalWidth") == 28
        page.value("document.getElementById('clear').click()")
        assert "Nothing is drawn yet." in page.value("document.body.innerText")
        (tmp_path / "one.png").write_bytes(digit(255, 0))
        page.choose("#file", tmp_path / "one.png")
        page.until("!document.getElementById('seen').hidden")
        (tmp_path / "bad.png").write_bytes(b"no picture")
        page.choose("#file", tmp_path / "bad.png")
        page.until("document.getElementById('words').textContent.includes('no PNG')")
        outside = [one for one in page.requests if not one.startswith((served, "data:", "blob:", "about:"))]
        assert outside == []
        assert [one for one in page.problems if "422" not in one] == []  # the answer to what is no picture


def test_a_port_that_is_taken_and_packages_that_are_missing_are_refused(checkpoint, served, tmp_path):
    port = served.rpartition(":")[2]
    process = train(tmp_path, "task=serve", f"checkpoint={checkpoint}", f"serve.port={port}")
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: serve.host=127.0.0.1 serve.port={port}: ")
    assert process.stderr.count("\n") == 1
    process = train(tmp_path, "task=serve", f"checkpoint={checkpoint}", "serve.host=nowhere.invalid")
    assert process.returncode == 2
    process = train(tmp_path, "task=serve", f"checkpoint={checkpoint}", "serve.prot=3")
    assert process.stderr == "error: serve.prot: no such key. Did you mean 'serve.port'?\n"
    assert list(tmp_path.iterdir()) == []


def test_sigterm_ends_it(checkpoint):
    process, _ = started(checkpoint, "serve.port=0", "serve.host=0.0.0.0")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "Traceback" not in said
