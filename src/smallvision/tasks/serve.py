"""A page on which to draw a digit or drop a picture, and POST /predict for programs."""

import logging
import signal
import socket
import threading
from pathlib import Path
from typing import Any

from smallvision.data.framing import Wanted, kind
from smallvision.data.pictures import MODES
from smallvision.errors import Refusal
from smallvision.overrides import Config
from smallvision.screen import Screen
from smallvision.tasks.predict import stand_in_words
from smallvision.training.inference import load

BACKLOG = 128  # connections that wait


def run(config: Config) -> None:
    """Answer until Ctrl-C or SIGTERM."""
    import uvicorn  # an optional package, and only here

    from smallvision.serving.answers import Answers
    from smallvision.serving.app import LOOPBACK, make_app

    choice = config["serve"]
    trained = load(Path(config["checkpoint"]), config)
    channels, height, width = trained.shape
    if channels not in MODES:
        raise Refusal(f"{config['checkpoint']}: takes images of {channels} channels; pictures have 1 or 3")
    listening = listen(choice["host"], choice["port"])
    answers = Answers(trained, Wanted(channels, height, width, kind(trained.plain)))
    app = make_app(answers, choice["host"], choice["most"], round(choice["megabytes"] * 1e6))
    server = uvicorn.Server(
        uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off")
    )
    stop_at_a_signal(server)
    screen = Screen()
    shown = f"[{choice['host']}]" if ":" in choice["host"] else choice["host"]
    address = f"http://{shown}:{listening.getsockname()[1]}"
    screen.say(f"smallvision: serving {config['checkpoint']}", style="bold")
    if stand_in := stand_in_words(trained):
        screen.say(f"  {stand_in}", style="bold red")
    screen.pairs({"page": f"{address}/", "programs": f"curl --data-binary @picture.png {address}/predict"})
    if choice["host"] not in LOOPBACK:
        screen.say("  note       whoever can reach this machine can ask it, unencrypted", style="yellow")
    screen.say("  Ctrl-C ends it")
    # In a thread of its own: uvicorn would take the signals, and raise them anew at its end.
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    thread.join()
    screen.say("stopped")


def stop_at_a_signal(server: Any) -> None:
    """Ctrl-C and SIGTERM let the server answer what was asked, and end."""
    logging.getLogger("uvicorn").setLevel(logging.ERROR)

    def stop(*_: Any) -> None:
        server.should_exit = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; Refusal where it cannot."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except (OSError, UnicodeError) as error:
        said = getattr(error, "strerror", None) or error
        raise Refusal(f"serve.host={host} serve.port={port}: {said}; serve.port=0 takes a free one") from None
    return made
