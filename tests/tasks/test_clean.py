"""task=clean removes the decoded images, and says how much that frees, before torch could be imported."""

from pathlib import Path

from helpers.forks import train_without_torch

from smallvision.data.cache import cache_file


def test_decoded_images_are_removed_and_counted(tmp_path: Path) -> None:
    file = cache_file(str(tmp_path / "data"), tmp_path / "photos", 64)
    file.parent.mkdir(parents=True)
    file.write_bytes(bytes(3_200_000))
    (file.parent / "mine.txt").touch()
    process = train_without_torch(tmp_path, "task=clean")
    assert (process.returncode, process.stderr) == (0, "")
    assert f"removed    data/cache/{file.name} (3.2 MB)\n" in process.stdout
    assert process.stdout.endswith("freed      3.2 MB in data/cache\n")
    assert not file.exists()
    assert (file.parent / "mine.txt").exists()
    assert not (tmp_path / "outputs").exists()
    assert train_without_torch(tmp_path, "task=clean").stdout == "  freed      0.0 MB in data/cache\n"


def test_without_a_cache_there_is_nothing_to_free(tmp_path: Path) -> None:
    process = train_without_torch(tmp_path, "task=clean", "data_dir=elsewhere")
    assert (process.returncode, process.stdout) == (0, "  freed      0.0 MB in elsewhere/cache\n")
    assert list(tmp_path.iterdir()) == []
