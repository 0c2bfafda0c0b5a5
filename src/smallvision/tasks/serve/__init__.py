"""A page on which to draw a digit or drop a picture, and POST /predict for programs."""

import logging
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.errors import UserError
from smallvision.data.image_files import MODES
from smallvision.data.preprocess import InputSpec, dataset_kind
from smallvision.tasks.predict import stand_in_words
from smallvision.training.predictor import load

BACKLOG = 128  # connections that wait


def run(config: Config) -> None:
    """Answer until Ctrl-C or SIGTERM."""
    import uvicorn  # an optional package, and only here

    from smallvision.tasks.serve.answers import Answers
    from smallvision.tasks.serve.app import LOOPBACK, make_app

    choice = config["serve"]
    trained = load(Path(config["checkpoint"]), config)
    channels, height, width = trained.shape
    if channels not in MODES:
        raise UserError(f"{config['checkpoint']}: takes images of {channels} channels; pictures have 1 or 3")
    listening = listen(choice["host"], choice["port"])
    plain = trained.plain
    dataset = dataset_kind(plain["config"]["data"]["name"], plain["data"]["name"], plain["mean"])
    answers = Answers(trained, InputSpec(channels, height, width, dataset))
    app = make_app(answers, choice["host"], choice["most"], round(choice["megabytes"] * 1e6))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off"))
    stop_at_a_signal(server)
    console = Console()
    shown = f"[{choice['host']}]" if ":" in choice["host"] else choice["host"]
    address = f"http://{shown}:{listening.getsockname()[1]}"
    console.print(f"smallvision: serving {config['checkpoint']}", style="bold")
    if stand_in := stand_in_words(trained):
        console.print(f"  {stand_in}", style="bold red")
    console.fields({"page": f"{address}/", "programs": f"curl --data-binary @picture.png {address}/predict"})
    if choice["host"] not in LOOPBACK:
        console.print("  note       whoever can reach this machine can ask it, unencrypted", style="yellow")
    console.print("  Ctrl-C ends it")
    # In a thread of its own: uvicorn would take the signals, and raise them anew at its end.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    thread.join()
    console.print("stopped")


def stop_at_a_signal(server: Any) -> None:
    """Ctrl-C and SIGTERM let the server answer what was asked, and end."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # of bytes that are not HTTP

    def stop(*_: Any) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; UserError where it cannot."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"serve.host={host} serve.port={port}: {said}; serve.port=0 takes a free one") from None
    return made
