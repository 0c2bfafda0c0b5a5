"""What is said of wrong input."""

import pytest

from smallvision.core.errors import UserError, did_you_mean, printable


def test_a_refusal_is_one_line() -> None:
    assert str(UserError("seed=x:\n  must be\ta number ")) == "seed=x: must be a number"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host/db: no", "postgresql://me:***@host/db: no"),
        ("postgresql+psycopg://me:sec:r@et/x@host:1/db", "postgresql+psycopg://me:***@host:1/db"),
        ("postgresql:///db?user=me&password=secret&port=1", "postgresql:///db?user=me&password=***&port=1"),
        ("postgresql://me@host:5432/db", "postgresql://me@host:5432/db"),
    ],
)
def test_a_password_is_masked(address: str, shown: str) -> None:
    assert str(UserError(f"sweep.storage={address}")) == f"sweep.storage={shown}"


@pytest.mark.parametrize(
    ("word", "known", "prefix", "said"),
    [
        ("adm", ["sgd", "adam"], "", " Did you mean 'adam'?"),
        ("lrr", ["lr", "eps"], "optimizer.", " Did you mean 'optimizer.lr'?"),
        ("zzz", ["sgd", "adam"], "", " Choices: adam, sgd."),
        ("zzz", [], "", ""),
        ("", ["b", "a"], "", " Choices: a, b."),
        ("adam", iter(["adam"]), "", " Did you mean 'adam'?"),
    ],
)
def test_the_nearest_word_is_offered_or_all_of_them(word: str, known: list[str], prefix: str, said: str) -> None:
    assert did_you_mean(word, known, prefix) == said


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("größe, 数字 7", "größe, 数字 7"),
        ("two\nlines", "two\nlines"),
        ("\x1b[2Jgone", r"\x1b[2Jgone"),
        ("bell\a, back\b, \x9b31m", r"bell\x07, back\x08, \x9b31m"),
        ("right\u202eto left", r"right\u202eto left"),
    ],
)
def test_a_terminal_s_commands_are_shown_not_obeyed(words: str, shown: str) -> None:
    assert printable(words) == shown
