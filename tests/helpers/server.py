"""An HTTP server in a thread of this process."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette

from smallvision.tasks.serve import listen

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # urllib's own keeps the proxies of other tests


@contextmanager
def serving(app: Starlette) -> Iterator[str]:
    """Within the block ``app`` is served at the address that this gives."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()


def post(address: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    """The status and the JSON that ``POST /predict`` answers, as urllib sees them. ``body``: bytes, or an iterator."""
    request = urllib.request.Request(f"{address}/predict", body, headers, method="POST")
    try:
        with OPENER.open(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
