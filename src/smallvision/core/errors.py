"""The exceptions that end a run early, and the parts of their messages."""

import re
from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The user's input is wrong. One line that names the key or file and says how to mend it; exit code 2."""

    def __init__(self, message: str) -> None:
        super().__init__(without_password(" ".join(message.split())))


class LostProcess(Exception):
    """Another process of this run has ended or does not answer. One line that says how to go on; exit code 1."""


class Interrupted(BaseException):
    """SIGINT, SIGTERM or a file ``stop`` came; exit code 130.

    A second signal raises it wherever the program is, so like KeyboardInterrupt it is no Exception: whoever reports
    faults of a file or a library must not take it for one.
    """


class Pruned(Exception):
    """The pruner of a sweep ended this run after the epoch that it was in."""


def without_password(text: str) -> str:
    """The same with *** for the passwords of addresses (``postgresql://user:password@host``)."""
    text = re.sub(r"(\w://[^:/@\s]*:)\S*@", r"\1***@", text)
    return re.sub(r"([?&]password=)[^&\s]*", r"\1***", text)


def printable(text: str) -> str:
    """The same with control characters escaped: a file's name may hold commands to the terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text)


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """``" Did you mean 'adam'?"`` where a known name is near, else all known names."""
    names = sorted(known)
    nearest = get_close_matches(name, names, n=1, cutoff=0.6)
    if nearest:
        return f" Did you mean '{prefix}{nearest[0]}'?"
    return f" Choices: {', '.join(names)}." if names else ""
