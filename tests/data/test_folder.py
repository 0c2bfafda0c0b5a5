"""A tree of image files, one folder per class."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.command import results
from helpers.forks import train
from PIL import Image

from smallvision.core.errors import UserError
from smallvision.data import image_files as module
from smallvision.data.folder import folder


def paint(file: Path, colour: object = 120, mode: str = "L", size: tuple[int, int] = (4, 4)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(file)
    return file


def tree(root: Path, counts: dict[str, int]) -> Path:
    """``counts``: images in each folder; each image has a grey level of its own."""
    level = 0
    for folder_name, count in counts.items():
        for number in range(count):
            paint(root / folder_name / f"{number}.png", level)
            level += 1
    return root


def read_one(file: Path, **options: int) -> np.ndarray:
    """What ``folder`` makes of that one file: channels x size x size."""
    data = folder(str(file.parents[2]), **options)
    return data.train_images[0].numpy()


@pytest.fixture
def one(tmp_path: Path) -> Path:
    """The path, without suffix, of the first training image; the test writes it."""
    paint(tmp_path / "train" / "b" / "other.png")
    paint(tmp_path / "test" / "a" / "other.png")
    paint(tmp_path / "test" / "b" / "other.png")
    (tmp_path / "train" / "a").mkdir()
    return tmp_path / "train" / "a" / "it"


def test_a_train_and_test_tree_keeps_its_own_split(tmp_path: Path) -> None:
    tree(tmp_path, {"train/cat": 3, "train/dog": 2, "test/cat": 1, "test/dog": 4})
    data = folder(str(tmp_path), size=4, channels=1)
    assert data.classes == ["cat", "dog"]
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert data.test_labels.tolist() == [0, 1, 1, 1, 1]
    assert data.train_images[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert data.test_images[:, 0, 0, 0].tolist() == [5, 6, 7, 8, 9]


def test_a_flat_tree_holds_out_a_fraction_of_each_class(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 10, "dog": 20})
    data = folder(str(tmp_path), size=4, channels=1, test_fraction=0.3)
    assert data.test_labels.bincount().tolist() == [3, 6]
    levels = [*data.train_images[:, 0, 0, 0].tolist(), *data.test_images[:, 0, 0, 0].tolist()]
    assert sorted(levels) == list(range(30))
    assert "30% held out" in data.source


def test_the_held_out_images_are_the_same_in_every_run(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 9, "dog": 9})
    assert folder(str(tmp_path)).fingerprint == folder(str(tmp_path)).fingerprint


def test_a_fraction_of_zero_holds_nothing_out(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    data = folder(str(tmp_path), test_fraction=0.0)
    assert (len(data.train_labels), len(data.test_labels)) == (4, 0)


def test_a_fraction_that_leaves_nothing_is_refused_by_its_own_key(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match=r"data\.test_fraction=0\.95"):
        folder(str(tmp_path), test_fraction=0.95)


def test_images_are_found_in_subfolders_and_other_files_are_left_alone(tmp_path: Path) -> None:
    tree(tmp_path, {"cat/old": 2, "cat": 1, "dog": 3, ".cache": 1})
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    data = folder(str(tmp_path), test_fraction=0.0)
    assert data.train_labels.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [1, 5, 32])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_kind_of_image_comes_to_the_size_and_channels_asked_for(
    one: Path, mode: str, size: int, channels: int
) -> None:
    gradient = Image.linear_gradient("L").resize((7, 3)).convert("RGB")
    gradient.convert(mode.removesuffix("A")).convert(mode).save(file := one.with_suffix(".tif"))
    image = read_one(file, size=size, channels=channels)
    assert image.dtype == np.uint8
    assert image.shape == (channels, size, size)
    assert image.max() > 0


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".webp", ".jpg", ".JPEG", ".ppm"])
def test_a_plain_colour_stays_that_colour_in_every_format(one: Path, suffix: str) -> None:
    file = paint(one.with_suffix(suffix), (200, 100, 50), "RGB", (8, 8))
    image = read_one(file, size=4).astype(int)
    assert np.abs(image - np.array([200, 100, 50])[:, None, None]).max() <= 6  # jpg and webp lose a little


def test_transparency_becomes_white(one: Path) -> None:
    file = one.with_suffix(".png")
    Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 255]]], dtype=np.uint8)).save(file)
    assert read_one(file, size=2, channels=1)[0, 0].tolist() == [255, 9]


def test_a_palettes_transparent_colour_becomes_white(one: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], dtype=np.uint8), mode=None).convert("P")
    image.putpalette([0, 0, 0, 30, 60, 90])
    image.save(file := one.with_suffix(".png"), transparency=0)
    pixels = read_one(file, size=2)[:, 0]
    assert pixels.T.tolist() == [[255, 255, 255], [30, 60, 90]]


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_grey_keeps_its_range(one: Path, suffix: str, order: str, channels: int) -> None:
    levels = (np.arange(16, dtype=np.uint16) * 4096 + 7).reshape(4, 4)
    Image.fromarray(levels.astype(order)).save(file := one.with_suffix(suffix))
    assert read_one(file, size=4, channels=channels)[0].tolist() == (levels >> 8).tolist()


def test_floating_point_pixels_are_refused_by_name(one: Path) -> None:
    Image.fromarray(np.ones((2, 2), np.float32)).save(one.with_suffix(".tif"))
    with pytest.raises(UserError, match=r"it\.tif: .*floating-point"):
        read_one(one.with_suffix(".tif"))


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (1, 1)), (6, (0, 1)), (8, (1, 0))])
def test_a_photograph_is_rotated_by_its_exif_orientation(one: Path, orientation: int, corner: tuple[int, int]) -> None:
    pixels = np.zeros((2, 2), np.uint8)
    pixels[0, 0] = 255
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(file := one.with_suffix(".png"), exif=exif)
    seen = read_one(file, size=2, channels=1)[0]
    assert tuple(np.argwhere(seen == 255)[0]) == corner


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_an_unreadable_file_is_refused_by_name(one: Path, content: bytes) -> None:
    file = one.with_suffix(".png")
    file.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_one(file)
    assert str(refused.value).startswith(f"{file}: not a readable image")


def test_an_image_cut_off_is_refused_by_name(one: Path) -> None:
    file = one.with_suffix(".png")
    noise = np.random.default_rng(0).integers(0, 256, (16, 16), dtype=np.uint8)
    Image.fromarray(noise).save(file)
    raw = file.read_bytes()
    for length in range(0, len(raw) - 20, 23):
        file.write_bytes(raw[:length])
        with pytest.raises(UserError, match=r"it\.png: not a readable image"):
            read_one(file)


def test_a_huge_image_is_refused_before_it_is_decoded(one: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 63)
    file = paint(one.with_suffix(".png"), size=(8, 8))
    with pytest.raises(UserError, match="8 x 8 pixels, too large"):
        read_one(file)


def test_a_class_that_only_the_test_set_has_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {"train/cat": 1, "train/dog": 1, "test/cat": 1, "test/emu": 1})
    with pytest.raises(UserError, match=r"test/emu: a class that .*train does not have"):
        folder(str(tmp_path))


def test_a_class_that_the_test_set_lacks_keeps_its_number(tmp_path: Path) -> None:
    tree(tmp_path, {"train/ant": 1, "train/cat": 1, "train/dog": 1, "test/cat": 1, "test/dog": 1})
    assert folder(str(tmp_path)).test_labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"cat": 3}, "at least two; found 1"),
        ({"cat": 0}, "at least two; found 0"),
        ({"train/cat": 1, "train/dog": 1, "test/cat": 0}, "no image files"),
    ],
)
def test_too_few_classes_are_refused(tmp_path: Path, counts: dict[str, int], message: str) -> None:
    (tmp_path / "test").mkdir() if "test/cat" in counts else None
    with pytest.raises(UserError, match=message):
        folder(str(tree(tmp_path, counts)))


def test_a_missing_folder_and_empty_classes_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data\.path=.*nowhere: no such folder"):
        folder(str(tmp_path / "nowhere"))
    (tmp_path / "cat").mkdir()
    (tmp_path / "dog").mkdir()
    with pytest.raises(UserError, match="no image files"):
        folder(str(tmp_path))


def test_a_tree_with_train_and_val_but_no_test_is_refused_rather_than_read_as_two_classes(tmp_path):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / part / name / "1.png")
    with pytest.raises(UserError, match="has train, val; name the folders of its classes' images train and test"):
        folder(str(tmp_path))


@pytest.mark.parametrize("names", [("Train", "Test"), ("training", "testing"), ("val", "test")])
def test_parts_under_other_names_are_no_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    tree(tmp_path, {f"{part}/{name}": 2 for part in names for name in ("cat", "dog")})
    with pytest.raises(UserError, match=r"name the folders of its classes' images train and test$"):
        folder(str(tmp_path))


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "outputs/runs").mkdir(parents=True)
    with pytest.raises(UserError, match=r"/outputs: no image files in this class's folder; remove it$"):
        folder(str(tmp_path))


def test_a_folder_named_as_an_image_is_a_folder(tmp_path: Path) -> None:
    tree(tmp_path, {"cat/of.png": 3, "dog": 3})
    assert len(folder(str(tmp_path), test_fraction=0).train_images) == 6


def test_the_name_of_a_class_is_text(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 3, os.fsdecode(b"d\xff"): 3})
    with pytest.raises(UserError, match=r"the name of a class is not UTF-8$"):
        folder(str(tmp_path))


def test_hidden_files_and_folders_are_left_out(tmp_path: Path) -> None:
    tree(tmp_path, {"cat": 3, "dog": 3, "dog/.ipynb_checkpoints": 2})
    (tmp_path / "cat/._0.png").write_bytes(b"of macOS")
    data = folder(str(tmp_path), test_fraction=0)
    assert len(data.train_images) == 6


@pytest.mark.parametrize("channels", [2, 4])
def test_channels_that_no_image_file_has_are_refused(tmp_path: Path, channels: int) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    with pytest.raises(UserError, match=f"data.channels={channels}: image files have 1"):
        folder(str(tmp_path), channels=channels)


def test_what_the_disk_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, {"cat": 2, "dog": 2})
    allowed = os.scandir

    def refuse(path: str) -> object:
        if path.endswith("dog"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return allowed(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    with pytest.raises(UserError, match=r"/dog: cannot be read \(Permission denied\)$"):
        folder(str(tmp_path))


def test_72_images_in_3_classes_are_trained_validated_tested_and_reported(tmp_path: Path) -> None:
    tree(tmp_path / "my pictures", {"cat": 24, "dog": 24, "emu": 24})
    typed = ("data=folder", "data.path=my pictures", "trainer.max_epochs=1", "hydra.run.dir=run")
    process = train(tmp_path, *typed)
    assert (process.returncode, process.stderr) == (0, "")
    assert "52 train, 6 val (a tenth), 14 test" in process.stdout
    assert (tmp_path / "run/report.html").is_file()
    assert results(tmp_path / "run")["metrics"]["val/acc"] is not None
    typed_again = ("task=predict", "checkpoint=run", "images=my pictures", "hydra.run.dir=predicted")
    assert "72 of them lie in my pictures, on which the network was trained" in train(tmp_path, *typed_again).stdout
    half = train(tmp_path, *typed[:3], "data.val_size=0.5", "report=false", "hydra.run.dir=half")
    assert "29 train, 29 val (data.val_size=0.5), 14 test" in half.stdout, half.stderr
    none = train(tmp_path, *typed[:3], "data.val_size=1.5")
    assert none.stderr.startswith("error: data.val_size=1.5: must be null or a whole number at least 0 or a number at")


def test_a_folder_that_changed_is_named_where_a_run_is_tested_or_continued(tmp_path: Path) -> None:
    tree(tmp_path / "photos", {"cat": 12, "dog": 12})
    small = ("data=folder", "data.path=photos", "data.size=8", "model=linear", "trainer.max_epochs=1", "report=false")
    assert train(tmp_path, *small, "hydra.run.dir=run").returncode == 0
    paint(tmp_path / "photos/cat/new.png")
    tested = train(tmp_path, "task=test", "checkpoint=run", "report=false")
    assert tested.returncode == 0, tested.stderr
    assert "has changed since the training, which may have seen test images" in tested.stdout
    resumed = train(tmp_path, "resume=run", "trainer.max_epochs=2")
    assert resumed.returncode == 2
    assert resumed.stderr.endswith("has changed since; start a new run\n")
    (tmp_path / "photos/cat").rename(tmp_path / "photos/zebra")
    moved = train(tmp_path, "task=test", "checkpoint=run")
    assert (moved.returncode, moved.stderr) == (2, "error: data=folder: dog is class 0; in the checkpoint it is 1\n")
