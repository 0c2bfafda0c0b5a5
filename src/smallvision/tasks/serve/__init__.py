"""A page on which to draw a digit or drop an image, and POST /predict for programs."""

import logging
import signal
import socket
import sys
import threading
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir
from smallvision.tasks.predict import input_spec, stand_in_warning
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.predictor import Predictor

if TYPE_CHECKING:
    from uvicorn import Server

BACKLOG = 128  # connections that wait to be accepted


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> None:
    """Serve the network of ``checkpoint`` until Ctrl-C or SIGTERM."""
    import uvicorn  # optional packages, which no other task needs

    from smallvision.tasks.serve.app import LOOPBACK, PredictService, make_app
    from smallvision.tasks.serve.connections import BoundedConnection

    assert isinstance(checkpoint, Checkpoint)
    assert config.serve is not None
    host, max_bytes = config.serve.host, round(config.serve.max_megabytes * 1e6)
    predictor = Predictor.from_checkpoint(checkpoint, config)
    service = PredictService(predictor, input_spec(predictor, config.data.name), config.serve.max_images, max_bytes)
    listening = listen(host, config.serve.port)
    app = make_app(service, host)
    if config.serve.log:
        logging.basicConfig(stream=sys.stdout, format="%(asctime)s %(message)s")
    connections = partial(BoundedConnection, config.serve)
    settings = uvicorn.Config(
        app, http=connections, ws="none", backlog=BACKLOG, log_config=None, access_log=config.serve.log,  # type: ignore[arg-type]
        proxy_headers=False, server_header=False, lifespan="off",
    )  # fmt: skip
    server = uvicorn.Server(settings)
    stop_on_signal(server)
    address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
    console = Console()
    if warning := stand_in_warning(predictor):
        console.print(f"  {warning}", style="bold red")
    console.fields({"page": f"{address}/", "programs": f"curl --data-binary @image.png {address}/predict"})
    if host not in LOOPBACK:
        console.print("  note       open to everyone who can reach this machine, and not encrypted", style="yellow")
    console.print("  Ctrl-C stops the server")
    # In a thread of its own: in the main thread uvicorn would handle the signals, and raise them again at its end.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    thread.join()
    console.print("stopped")


def stop_on_signal(server: "Server") -> None:
    """Ctrl-C and SIGTERM let the server finish the requests that it has, and stop it."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("uvicorn.access").setLevel(logging.INFO)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of bytes that are not HTTP

    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises UserError where that is not possible."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"serve.host={host} serve.port={port}: {reason}; serve.port=0 takes a free one") from None
    return listening
