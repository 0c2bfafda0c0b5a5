"""How a run ends other than well: refused (the user's mend), interrupted (to be continued) or pruned."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """The user's input is wrong: one line that names the key or file and says the mend; exit 2."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class Interrupted(Exception):
    """SIGINT or SIGTERM came; the run's state is saved; exit 130."""


class Pruned(Exception):
    """A sweep has no hope for this run any more; it ends tidily after the epoch that it is in."""


def printable(words: str) -> str:
    """The same with control characters shown, not obeyed: a file's name may hold a terminal's commands."""
    if words.isprintable():
        return words
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in words)


def did_you_mean(word: str, known: Iterable[str], prefix: str = "") -> str:
    """``" Did you mean 'adam'?"`` where a known word is near, else the known words in a list."""
    names = sorted(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f" Did you mean '{prefix}{near[0]}'?"
    return f" Choices: {', '.join(names)}." if names else ""
