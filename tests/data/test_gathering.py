"""Which pictures `images=` names."""

import io
from pathlib import Path

import pytest
from helpers import odd_files

from smallvision.core.errors import UserError
from smallvision.data import image_files as gathering
from smallvision.data.image_files import Gathered

PNG = odd_files.readable()["no-suffix"]


def gather(images: str | list[str], stdin: bytes = b"") -> Gathered:
    return gathering.gather(images, io.BytesIO(stdin))


def names(found: Gathered, root: Path) -> list[str]:
    return [source.name.removeprefix(f"{root}/") for source in found.sources]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.bmp", "sub/.hidden/d.png", ".e.png", "plain", "notes.txt", "words"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG if name != "words" else b"no picture")
    return tmp_path


def test_a_folder_is_read_through_and_through_in_order(tree: Path) -> None:
    found = gather(str(tree))
    assert names(found, tree) == ["a.JPG", "b.png", "plain", "sub/c.bmp"]
    assert found.passed_over == 2


def test_files_globs_and_lists_come_in_the_order_typed_each_once(tree: Path) -> None:
    found = gather([f"{tree}/b.png", f"{tree}/*.*", f"{tree}/**/c.*"])
    assert names(found, tree) == ["b.png", "a.JPG", "notes.txt", "sub/c.bmp"]


def test_a_file_whose_name_reads_as_a_pattern_is_that_file(tree: Path) -> None:
    (tree / "x[1]*.png").write_bytes(PNG)
    assert names(gather(f"{tree}/x[1]*.png"), tree) == ["x[1]*.png"]


def test_home_is_meant_by_its_sign(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert names(gather("~/b.png"), tree) == ["b.png"]


def test_what_is_missing_is_named_where_something_else_is_there(tree: Path) -> None:
    found = gather([f"{tree}/b.png", f"{tree}/z.png", f"{tree}/z*"])
    assert [source.error for source in found.sources] == [None, "no such file or folder", "nothing matches"]


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("nowhere.png", "images=nowhere.png: cannot be read: no such file or folder"),
        ("*.nothing", r"images=\*\.nothing: cannot be read: nothing matches"),
        (["a.png", "b.png"], r"images=\[a.png,b.png\]: cannot be read: a.png: no such .*; nor can 1 others"),
        ("x" * 5000, "images=x{200}\\.\\.\\.: cannot be read"),
    ],
)
def test_nothing_at_all_is_refused(images: str | list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        gather(images)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder without pictures"):
        gather(str(tmp_path))


def test_a_picture_comes_in_by_standard_input() -> None:
    (source,) = gather("-", PNG).sources
    assert (source.name, source.content) == ("standard input", PNG)


def test_a_picture_cut_off_on_standard_input_is_a_picture_still() -> None:
    assert gather("-", PNG[:50]).sources[0].content == PNG[:50]


def test_a_picture_made_of_words_is_a_picture() -> None:
    assert gather("-", b"P1 2 1\n0 1\n").sources[0].content == b"P1 2 1\n0 1\n"


@pytest.mark.parametrize("between", ["\n", "\r\n", "\0"])
def test_names_come_in_by_standard_input(tree: Path, between: str) -> None:
    listed = between.join([f"{tree}/b.png", f"{tree}/missing.png", f"{tree}/sub", ""]).encode()
    found = gather("-", listed)
    assert names(found, tree) == ["b.png", "missing.png", "sub/c.bmp"]
    assert found.sources[1].error == "no such file or folder"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "nothing on standard input"), (b" \n\n", "nothing on"), (b"<html>\n</html>", "<html>: no such")],
)
def test_standard_input_without_any_of_that_is_refused(content: bytes, words: str) -> None:
    with pytest.raises(UserError, match=words):
        gather("-", content)


def test_standard_input_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="more than"):
        gather("-", bytes(101))


def test_a_terminal_is_not_waited_for() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(UserError, match="terminal"):
        gathering.gather("-", Terminal())


def test_a_link_that_leads_in_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "circle").symlink_to(tmp_path)
    assert names(gather(str(tmp_path)), tmp_path) == ["a.png"]
