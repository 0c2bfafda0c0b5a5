"""Files are there whole or not at all."""

from pathlib import Path

import pytest

from smallvision.core.run_dir import atomic_write, write_text


def test_a_file_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with atomic_write(target) as scratch:
        scratch.write_text("new")
        assert not target.exists()
        assert scratch.parent == tmp_path
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_the_old_file_stays_when_the_block_raises(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def write_half() -> None:
        with atomic_write(target) as scratch:
            scratch.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"]
    assert target.read_text() == "old"


def test_a_file_that_never_was_leaves_nothing_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="full"), atomic_write(tmp_path / "a.txt"):
        raise OSError("full")
    assert list(tmp_path.iterdir()) == []


def test_a_scratch_file_that_vanished_is_an_error_and_the_old_file_stays(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(target) as scratch:
        scratch.unlink()
    assert target.read_text() == "old"


def test_others_may_read_the_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_text_is_kept_in_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "größe 日本\n")
    assert (tmp_path / "a.txt").read_bytes() == "größe 日本\n".encode()


def test_text_replaces_what_was_there(tmp_path: Path) -> None:
    for text in ("long long long", "short"):
        write_text(tmp_path / "a.txt", text)
    assert (tmp_path / "a.txt").read_text() == "short"
