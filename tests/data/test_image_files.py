"""Image files: which ones `images=` names, and each decoded upright, at 8 bits a channel."""

import io
import os
from pathlib import Path

import numpy as np
import pytest
from helpers import odd_files
from PIL import Image

from smallvision.core.errors import UserError
from smallvision.data import image_files
from smallvision.data.image_files import FoundImages, UnreadableImage, flatten_alpha, open_image, thumbnail

READABLE, UNREADABLE = odd_files.readable(), odd_files.unreadable()
PNG = READABLE["no-suffix"]

# Decoding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", READABLE)
def test_every_kind_of_image_opens_at_eight_bits(name: str) -> None:
    with open_image(READABLE[name], name) as image:
        assert np.asarray(image.convert("RGB")).dtype == np.uint8
        assert image.width * image.height > 0
        assert max(thumbnail(image).size) <= image_files.THUMBNAIL


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_file_that_is_no_image_is_named_with_the_reason(name: str) -> None:
    with pytest.raises(UnreadableImage) as raised, open_image(UNREADABLE[name], name) as image:
        image.convert("RGB")
    assert str(raised.value) == f"{name}: not a readable image ({raised.value.reason})"
    assert raised.value.reason
    assert "BytesIO" not in raised.value.reason


def test_pipes_devices_and_folders_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero"), tmp_path / ("long" * 999)):
        with pytest.raises(UnreadableImage, match="not a file"), open_image(path, "it"):
            pass


def test_damage_that_shows_only_while_decoding_is_reported_as_unreadable() -> None:
    with (
        pytest.raises(UnreadableImage, match="it: not a readable image"),
        open_image(UNREADABLE["cut.png"], "it") as image,
    ):
        image.load()


def test_the_first_of_several_frames_or_pages_is_taken() -> None:
    for name in ("animated.gif", "animated.png", "animated.webp", "pages.tif"):
        with open_image(READABLE[name], name) as image:
            found = np.asarray(image.convert("L")).astype(int)
        assert np.abs(found - np.asarray(odd_files.digit())).max() <= 12, name


def test_all_eight_exif_orientations_come_out_upright(tmp_path: Path) -> None:
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:8, :8] = 255  # light in the upper left corner
    T = Image.Transpose  # noqa: N806
    back = {
        2: T.FLIP_LEFT_RIGHT, 3: T.ROTATE_180, 4: T.FLIP_TOP_BOTTOM, 5: T.TRANSPOSE, 6: T.ROTATE_90,
        7: T.TRANSVERSE, 8: T.ROTATE_270,
    }  # fmt: skip
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(pixels)
        if orientation in back:
            stored = stored.transpose(back[orientation])
        stored.save(tmp_path / "it.png", exif=exif)
        with open_image(tmp_path / "it.png", "it") as image:
            assert (np.asarray(image) == pixels).all(), orientation


def transparent(level: int, alpha: np.ndarray) -> Image.Image:
    grey = np.full_like(alpha, level)
    return Image.fromarray(np.stack([grey, grey, grey, alpha], -1))


def test_transparent_ink_gets_a_background_that_contrasts_with_it() -> None:
    alpha = np.asarray(odd_files.digit(40))
    light, dark = transparent(255, alpha), transparent(0, alpha)
    assert (np.asarray(flatten_alpha(light, None).convert("L")) == alpha).all()
    assert (np.asarray(flatten_alpha(dark, None).convert("L")) == 255 - alpha).all()
    assert (np.asarray(flatten_alpha(light).convert("L")) == 255).all()  # on white by default


def test_soft_edges_do_not_decide_whether_ink_is_light() -> None:
    """A light stroke that fades to dark before it becomes transparent is a light stroke."""
    stroke = np.zeros((20, 20), np.uint8)
    stroke[4:16, 7:13], stroke[5:15, 9:11] = 60, 255
    clear = transparent(0, np.where(stroke, 255, 0).astype(np.uint8))
    pixels = np.asarray(clear).copy()
    pixels[..., :3] = stroke[..., None]
    assert (np.asarray(flatten_alpha(Image.fromarray(pixels), None).convert("L")) == stroke).all()


def test_an_entirely_transparent_image_is_white() -> None:
    assert np.asarray(flatten_alpha(Image.new("RGBA", (5, 5), (0, 0, 0, 0)), None).convert("L")).min() == 255


# Finding -------------------------------------------------------------------------------------------------


def find(images: str | list[str], stdin: bytes = b"") -> FoundImages:
    return image_files.find_images(images, io.BytesIO(stdin))


def names(found: FoundImages, root: Path) -> list[str]:
    return [file.name.removeprefix(f"{root}/") for file in found.files]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.bmp", "sub/.hidden/d.png", ".e.png", "plain", "notes.txt", "text"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(PNG if name != "text" else b"no image")
    return tmp_path


def test_a_folder_is_searched_with_its_subfolders_in_order(tree: Path) -> None:
    found = find(str(tree))
    assert names(found, tree) == ["a.JPG", "b.png", "plain", "sub/c.bmp"]
    assert found.skipped == 2


def test_files_globs_and_lists_come_in_the_order_typed_each_once(tree: Path) -> None:
    found = find([f"{tree}/b.png", f"{tree}/*.*", f"{tree}/**/c.*"])
    assert names(found, tree) == ["b.png", "a.JPG", "notes.txt", "sub/c.bmp"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tree: Path) -> None:
    (tree / "x[1]*.png").write_bytes(PNG)
    assert names(find(f"{tree}/x[1]*.png"), tree) == ["x[1]*.png"]


def test_a_tilde_is_the_home_folder(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tree))
    assert names(find("~/b.png"), tree) == ["b.png"]


def test_missing_files_are_named_where_others_exist(tree: Path) -> None:
    found = find([f"{tree}/b.png", f"{tree}/z.png", f"{tree}/z*"])
    assert [file.error for file in found.files] == [None, "no such file or folder", "nothing matches"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("nowhere.png", "images=nowhere.png: cannot be read: no such file or folder"),
        ("*.nothing", r"images=\*\.nothing: cannot be read: nothing matches"),
        (["a.png", "b.png"], r"images=\[a.png,b.png\]: cannot be read: a.png: no such .*; nor can 1 others"),
        ("x" * 5000, "images=x{200}\\.\\.\\.: cannot be read"),
    ],
)
def test_images_of_which_none_exists_are_refused(images: str | list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find(images)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a folder without images"):
        find(str(tmp_path))


@pytest.mark.parametrize("content", [PNG, PNG[:50], b"P1 2 1\n0 1\n"], ids=["png", "cut off", "an image in text"])
def test_standard_input_may_be_an_image(content: bytes) -> None:
    (file,) = find("-", content).files
    assert (file.name, file.content) == ("standard input", content)


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_standard_input_may_be_names(tree: Path, separator: str) -> None:
    listed = separator.join([f"{tree}/b.png", f"{tree}/missing.png", f"{tree}/sub", ""]).encode()
    found = find("-", listed)
    assert names(found, tree) == ["b.png", "missing.png", "sub/c.bmp"]
    assert found.files[1].error == "no such file or folder"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "nothing on standard input"), (b" \n\0\n", "nothing on"), (b"<html>\n</html>", "<html>: no such")],
)
def test_standard_input_with_neither_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find("-", content)


def test_standard_input_is_limited_in_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_STDIN_BYTES", 100)
    with pytest.raises(UserError, match="more than"):
        find("-", bytes(101))


def test_a_terminal_is_not_waited_for() -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(UserError, match="terminal"):
        image_files.find_images("-", Terminal())


def test_a_symbolic_link_to_a_parent_folder_does_not_loop(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "circle").symlink_to(tmp_path)
    assert names(find(str(tmp_path)), tmp_path) == ["a.png"]
