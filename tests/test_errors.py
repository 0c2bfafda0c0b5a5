"""What is said of wrong input."""

import pytest

from smallvision.errors import Refusal, did_you_mean


def test_a_refusal_is_one_line() -> None:
    assert str(Refusal("seed=x:\n  must be\ta number ")) == "seed=x: must be a number"


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
def test_the_nearest_word_is_offered_or_all_of_them(
    word: str, known: list[str], prefix: str, said: str
) -> None:
    assert did_you_mean(word, known, prefix) == said
