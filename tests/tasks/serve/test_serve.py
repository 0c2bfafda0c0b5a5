"""A network answers over HTTP, to programs and to a real browser, within limits."""

import base64
import io
import json
import re
import signal
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.browser import browser
from helpers.configs import resolved
from helpers.forks import Started, start, train
from helpers.server import OPENER, post, serving
from PIL import Image

from smallvision.data.preprocess import InputSpec
from smallvision.tasks.serve.app import PredictService, make_app
from smallvision.training.checkpoint import read_checkpoint
from smallvision.training.predictor import Predictor


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a network that was trained on digits, a stand-in for mnist, which are light on dark."""
    folder = tmp_path_factory.mktemp("served")
    process = train(
        folder, "model=linear", "trainer.max_epochs=1", "data_dir=none", "report=false", "hydra.run.dir=run"
    )
    assert process.returncode == 0, process.stderr
    return folder / "run/checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def served(checkpoint: Path) -> Iterator[str]:
    """The address of a server in this process that takes up to 3 images and 0.5 MB."""
    predictor = Predictor.from_checkpoint(
        read_checkpoint(checkpoint), resolved("task=serve", f"checkpoint={checkpoint}")
    )
    service = PredictService(predictor, InputSpec(1, 28, 28, "mnist"), 3, 500_000)
    with serving(make_app(service, "127.0.0.1")) as address:
        yield address


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
    image = digit()
    status, answer = post(served, image, **{"Content-Type": "image/png"})
    assert status == 200
    (one,) = answer["predictions"]
    assert one["class"] == answer["classes"][int(np.argmax(one["probabilities"]))]
    assert sum(one["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert one["probability"] == max(one["probabilities"])
    assert one["polarity"] == "inverted"
    assert answer["stand_in_for"] == "mnist"
    body, kind = form(image, digit(255, 0))
    _, several = post(served, body, **{"Content-Type": kind})
    assert several["predictions"][0]["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6)
    assert several["predictions"][1]["polarity"] == "kept"
    text = base64.b64encode(image).decode()
    for sent in ({"image": text}, {"images": [f"data:image/png;base64,{text}"]}):
        _, again = post(served, json.dumps(sent).encode(), **{"Content-Type": "application/json"})
        assert again["predictions"][0]["probabilities"] == one["probabilities"]


def test_of_several_files_the_one_that_is_no_image_gets_an_error_and_the_others_predictions(served):
    body, kind = form(digit(), b"no image", b"")
    status, answer = post(served, body, **{"Content-Type": kind})
    assert status == 200
    assert ["class" in one for one in answer["predictions"]] == [True, False, False]
    assert "no PNG" in answer["predictions"][1]["error"]
    status, answer = post(served, b"no image")
    assert status == 422
    assert "class" not in answer["predictions"][0]


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"", {}, 400, "no image"),
        (b"x" * 600_000, {}, 413, "more than 0.5 MB"),
        (b"{}", {"Content-Type": "application/json"}, 400, "not of the form"),
        (b'{"images": 3}', {"Content-Type": "application/json"}, 400, "not of the form"),
        (b'{"images": ["%%%"]}', {"Content-Type": "application/json"}, 400, "not of the form"),
        (b"[" * 100_000, {"Content-Type": "application/json"}, 400, "not of the form"),
        (b'{"images": []}', {"Content-Type": "application/json"}, 400, "no image"),
        (b'{"images": ["","","",""]}', {"Content-Type": "application/json"}, 413, "at most 3"),
        (b"nonsense", {"Content-Type": "multipart/form-data; boundary=x"}, 400, ""),
        (b"nonsense", {"Content-Type": "multipart/form-data"}, 400, "not a form"),
        (form(*[b"x"] * 4)[0], {"Content-Type": form()[1]}, 413, "Too many files"),
        (b"x", {"Origin": "http://evil.example"}, 403, "another site"),
    ],
)
def test_other_requests_are_refused_with_the_reason(served, body, headers, status, message):
    found, answer = post(served, body, **headers)
    assert found == status
    assert message in answer["error"]


def test_a_request_to_another_host_name_is_refused(served):
    request = urllib.request.Request(served + "/", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        OPENER.open(request, timeout=30)
    assert caught.value.code == 400


def test_drawing_on_the_page_shows_probabilities(served, tmp_path):
    with browser(tmp_path / "profile") as page:
        page.open(served + "/")
        assert "Not mnist." in page.value("document.body.innerText")
        box = page.value("JSON.stringify(document.getElementById('canvas').getBoundingClientRect())")
        left, top, side = (json.loads(box)[name] for name in ("left", "top", "width"))
        page.mouse("mousePressed", left + side / 2, top + side / 5)
        for step in range(1, 13):
            page.mouse("mouseMoved", left + side / 2, top + side * (0.2 + 0.05 * step))
        page.mouse("mouseReleased", left + side / 2, top + side * 0.8)
        page.until("document.getElementById('message').textContent.includes('probability')")
        page.until("document.querySelector('#bars tr.first')")
        percentages = page.value(
            "[...document.querySelectorAll('#bars td.n')].map((one) => parseFloat(one.textContent))"
        )
        assert len(percentages) == 10
        assert sum(percentages) == pytest.approx(100, abs=1)
        assert "inverted" in page.value("document.getElementById('prepared').innerText")
        assert page.value("document.getElementById('seen').naturalWidth") == 28
        page.value("document.getElementById('clear').click()")
        assert "Nothing is drawn yet." in page.value("document.body.innerText")
        (tmp_path / "one.png").write_bytes(digit(255, 0))
        page.choose("#file", tmp_path / "one.png")
        page.until("!document.getElementById('seen').hidden")
        (tmp_path / "bad.png").write_bytes(b"no image")
        page.choose("#file", tmp_path / "bad.png")
        page.until("document.getElementById('message').textContent.includes('no PNG')")
        assert page.value("[0.5, 0.9994, 0.99996, 1].map(percent)") == ["50.0 %", "99.9 %", "> 99.9 %", "> 99.9 %"]
        page.open(served + "/", width=375)  # of a phone
        top = "document.querySelector('{}').getBoundingClientRect().top"
        order = [page.value(top.format(one)) for one in ("canvas", "#clear", ".answer", ".drop")]
        assert order == sorted(order)
        assert order[2] < 667
        outside = [one for one in page.requests if not one.startswith((served, "data:", "blob:", "about:"))]
        assert outside == []
        assert [one for one in page.problems if "422" not in one] == []  # the answer to a file that is no image


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


def serve(checkpoint: Path, folder: Path, *overrides: str) -> tuple[Started, str, str]:
    """A server in a process of its own, its address, and what it has printed."""
    process = start(folder, "task=serve", f"checkpoint={checkpoint}", "serve.port=0", *overrides)
    while "Ctrl-C" not in (output := process.out.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    address = re.search(r"page +(http://[\d.]+:\d+)/", output)
    assert address, output
    return process, address[1], output


HEADERS = b"POST /predict HTTP/1.1\r\nHost: localhost\r\n"
HALF = HEADERS + b"Content-Length: 100\r\n\r\nabc"
REFUSED = HALF.replace(b"/predict", b"/nowhere")


def connect(address: str, sent: bytes) -> socket.socket:
    """A connection on which this is sent, and no more."""
    host, port = address.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.sendall(sent)
    return connection


def until_closed(connection: socket.socket) -> bytes:
    """All that the server answers until it closes the connection."""
    answer = b""
    with connection:
        while part := connection.recv(65_536):
            answer += part
    return answer


def ask(address: str, method: str, path: str) -> tuple[int, Any, str | None]:
    """The status, the JSON, and the methods that are allowed."""
    connection = HTTPConnection(address.removeprefix("http://"), timeout=60)
    with closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, json.load(answer), answer.getheader("Allow")


def test_a_request_that_does_not_arrive_is_closed_while_others_are_answered(checkpoint, tmp_path):
    """And with serve.log=true each that has arrived is a line."""
    limits = ("serve.header_timeout=3", "serve.body_timeout=3", "serve.log=true")
    process, address, output = serve(checkpoint, tmp_path, *limits)
    silent, headers, body, refused = (connect(address, sent) for sent in (b"", HEADERS, HALF, REFUSED))
    assert refused.recv(12) == b"HTTP/1.1 404"
    refused.sendall(b"x")  # what comes later does not help
    assert ask(address, "GET", "/health") == (200, {"status": "ok"}, None)
    assert post(address, digit())[0] == 200
    assert ask(address, "GET", "/nowhere") == (404, {"error": "Not Found"}, None)
    assert ask(address, "GET", "/predict?a=%1b") == (405, {"error": "Method Not Allowed"}, "POST")
    assert until_closed(silent) == until_closed(headers) == b""
    assert until_closed(refused).endswith(b'{"error":"Not Found"}')
    answer = until_closed(body)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b'{"error":"the request did not arrive whole"}')
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate()
    lines = printed.removeprefix(output).splitlines()
    assert [re.sub(r"^.*:\d+ - ", "", line) for line in lines] == [
        '"POST /nowhere HTTP/1.1" 404', '"GET /health HTTP/1.1" 200', '"POST /predict HTTP/1.1" 200',
        '"GET /nowhere HTTP/1.1" 404', '"GET /predict?a=%1b HTTP/1.1" 405', "stopped",
    ]  # fmt: skip
    assert (process.returncode, errors) == (0, "")


def test_idle_connections_shut_nobody_out_and_ctrl_c_does_not_wait_for_them(checkpoint, tmp_path):
    """Clients that leave, or that are closed, cost not a line."""
    limits = ("serve.header_timeout=600", "serve.body_timeout=600", "serve.max_connections=4")
    process, address, _ = serve(checkpoint, tmp_path, *limits)
    for sent in (b"", HEADERS, HALF):
        connect(address, sent).close()
    waiting = []
    for _ in range(6):  # four, and those that have waited longest give way to the others
        waiting.append(connect(address, REFUSED))
        assert waiting[-1].recv(12) == b"HTTP/1.1 404"
    assert ask(address, "GET", "/health")[0] == 200
    for one in waiting[:3]:
        until_closed(one)
    assert post(address, digit())[0] == 200
    process.send_signal(signal.SIGINT)
    printed, errors = process.communicate()
    assert (process.returncode, printed.splitlines()[-1], errors) == (0, "stopped", "")
    for one in waiting[3:]:
        until_closed(one)


def test_sigterm_stops_the_server_and_it_exits_with_0(checkpoint, tmp_path):
    process, address, output = serve(checkpoint, tmp_path, "serve.host=0.0.0.0")
    assert "open to everyone who can reach this machine" in output
    assert "STAND-IN: trained on digits, not on mnist" in output
    assert post(address, digit())[0] == 200
    process.send_signal(signal.SIGTERM)
    after, errors = process.communicate(timeout=60)
    assert (process.returncode, after.removeprefix(output), errors) == (0, "stopped\n", "")
    assert list(tmp_path.iterdir()) == []
