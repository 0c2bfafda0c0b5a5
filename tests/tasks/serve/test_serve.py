"""A network answers over HTTP, to programs and to a real browser, within limits."""

import base64
import io
import json
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.browser import browser
from helpers.configs import resolved
from helpers.forks import start, train
from helpers.server import OPENER, post, serving
from PIL import Image

from smallvision.data.preprocess import InputSpec
from smallvision.tasks.serve import stop_on_signal
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


def test_sigterm_stops_the_server_and_it_exits_with_0(checkpoint, tmp_path):
    process = start(tmp_path, "task=serve", f"checkpoint={checkpoint}", "serve.port=0", "serve.host=0.0.0.0")
    while "Ctrl-C" not in (output := process.out.read_text()):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    address = re.search(r"page +(http://0.0.0.0:\d+)/", output)
    assert address, output
    assert "open to everyone who can reach this machine" in output
    assert "STAND-IN: trained on digits, not on mnist" in output
    assert post(address[1], digit())[0] == 200
    process.send_signal(signal.SIGTERM)
    after, errors = process.communicate(timeout=60)
    assert (process.returncode, after.removeprefix(output), errors) == (0, "stopped\n", "")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_stops_the_server_as_well(monkeypatch):
    handlers: dict[int, Any] = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    server = SimpleNamespace(should_exit=False)
    stop_on_signal(server)
    assert handlers.keys() == {signal.SIGINT, signal.SIGTERM}
    handlers[signal.SIGINT](signal.SIGINT, None)
    assert server.should_exit
