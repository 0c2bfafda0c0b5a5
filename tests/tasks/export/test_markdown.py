"""Words out of files are shown by markdown, not obeyed."""

import re

from hypothesis import given
from hypothesis import strategies as st

from smallvision.tasks.export.markdown import block, plain, table


def test_marks_links_tags_and_cells_of_a_strangers_words_are_shown_as_they_are():
    assert plain("a*b_c`d") == r"a\*b\_c\`d"
    assert plain("[x](javascript:1)") == r"\[x\]\(javascript:1\)"
    assert plain("<script>&") == "&lt;script&gt;&amp;"
    assert plain("a|b\n# c") == r"a\|b \# c"
    assert "://" not in plain("see https://example.org").replace(r"\://", "")
    assert plain("\x1b[2J") == r"\\x1b\[2J"


@given(st.text())
def test_any_words_stay_in_their_cell(words):
    cell = plain(words)
    assert len(cell.splitlines()) <= 1
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`*\[<>]", cell)
    assert cell.isprintable()


@given(st.text(alphabet="`ab\n", max_size=30))
def test_no_code_ends_its_block(code):
    first, *inside, last = block(code, "sh").split("\n")
    assert first == last + "sh"
    assert not any(line.startswith(last) for line in inside)


def test_a_table_has_a_line_for_its_head_and_one_for_each_row():
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
