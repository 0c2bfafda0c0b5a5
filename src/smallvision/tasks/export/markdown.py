"""Words out of files, as markdown shows them and does not obey them."""

import re

from smallvision.core.errors import printable

LONGEST = 300


def plain(words: object) -> str:
    """One line of text: nothing in it is a mark, a link, a tag or a cell's end."""
    line = " ".join(printable(str(words)).split())
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_{}\[\]()#+!|~$^])", r"\\\1", line)
    return re.sub(r"(?i)(https?|ftp|www)([:.])", r"\1\\\2", line)  # no links of itself either


def block(code: str, language: str = "") -> str:
    """A fenced block, its fence longer than any in ``code``."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{printable(code)}\n{fence}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """``rows`` of cells that are markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
