"""The decoded images of a folder are kept in one file: the same data set as decoding gives, without decoding."""

import multiprocessing
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from contextlib import contextmanager, suppress
from multiprocessing.synchronize import Event
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np
import pytest
import torch
from helpers.command import results, wait_until
from helpers.forks import train
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from smallvision.core.errors import UserError
from smallvision.data import cache as module
from smallvision.data import memory_map
from smallvision.data.dataset import ImageDataset, digest, mean_and_std
from smallvision.data.folder import folder
from smallvision.data.image_files import open_image

FORK = multiprocessing.get_context("fork")


def paint(file: Path, seed: int = 0) -> Path:
    """An image of noise."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)).save(file)
    return file


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(24):
        paint(tmp_path / "photos" / "abc"[number % 3] / f"{number}.png", number)
    return tmp_path / "photos"


def load(photos: Path, **options: Any) -> ImageDataset:
    return folder(str(photos), **{"size": 4, "data_dir": str(photos.parent / "data"), **options})


def uncached(photos: Path, **options: Any) -> ImageDataset:
    return folder(str(photos), **{"size": 4, **options})


def files(photos: Path) -> list[Path]:
    """What lies in the cache."""
    return sorted(file for file in (photos.parent / "data/cache").iterdir() if file.name not in (".lock", module.TAG))


def assert_same(one: ImageDataset, other: ImageDataset) -> None:
    """As data sets, to the last bit, and in what is derived from them."""
    for key in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(one, key), getattr(other, key)), key
        assert getattr(one, key).stride() == getattr(other, key).stride(), key
    for key in ("name", "source", "classes", "fingerprint"):
        assert getattr(one, key) == getattr(other, key), key
    for data in (one, other):
        assert data.digests["train_images"] == digest(data.train_images)
        assert data.digests["test_images"] == digest(data.test_images)
        chosen = torch.arange(0, len(data.train_images), 2)
        exact = mean_and_std(data.train_images[chosen])
        assert mean_and_std(data.train_images, chosen) == mean_and_std(data.train_images, chosen, data.sums) == exact


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """Gives the names of the files that were decoded since it was last called."""
    names: list[str] = []

    def count(file: Path, name: str) -> Any:
        names.append(file.name)
        return open_image(file, name)

    def since() -> list[str]:
        done = sorted(names)
        names.clear()
        return done

    monkeypatch.setattr(module, "open_image", count)
    return since


Decodes = Callable[[], list[str]]


def test_a_second_start_decodes_nothing_and_gives_the_same(photos: Path, decodes: Decodes) -> None:
    expected = uncached(photos)
    assert len(decodes()) == 24
    assert_same(load(photos), expected)
    assert len(decodes()) == 24
    assert_same(load(photos), expected)
    assert decodes() == []
    assert len(files(photos)) == 1


def test_the_pixels_are_those_that_each_file_gives_by_itself(photos: Path) -> None:
    data = load(photos, test_fraction=0.0)
    paths = sorted(photos.rglob("*.png"))
    for path, image, label in zip(paths, data.train_images, data.train_labels, strict=True):
        alone = np.asarray(Image.open(path).resize((4, 4), Image.Resampling.BOX)).transpose(2, 0, 1)
        assert image.shape == alone.shape
        assert data.classes[label] == path.parent.name
        with open_image(path, str(path)) as opened:
            stretched = np.asarray(module.stretch(opened, 3, (4, 4)))
        assert np.array_equal(image.permute(1, 2, 0), stretched)


def test_files_come_in_the_order_of_the_parts_of_their_paths(tmp_path: Path) -> None:
    names = ["a/b/1.png", "a/b-c/1.png", "a/b.png", "a/b/é.png", "a/B/1.PNG", "b/2.png", "b/10.png"]
    for number, name in enumerate(names):
        paint(tmp_path / "photos" / name, number)
    data = load(tmp_path / "photos", test_fraction=0.0)
    in_order = [path for name in "ab" for path in sorted((tmp_path / "photos" / name).rglob("*")) if path.is_file()]
    for path, image in zip(in_order, data.train_images, strict=True):
        with open_image(path, str(path)) as opened:
            assert np.array_equal(image.permute(1, 2, 0), module.stretch(opened, 3, (4, 4)))


def test_a_train_and_test_tree_is_kept_too(photos: Path, decodes: Decodes) -> None:
    tree = photos.parent / "tree"
    shutil.copytree(photos, tree / "train")
    shutil.copytree(photos / "a", tree / "test/a")
    assert_same(load(tree), uncached(tree))
    assert len(decodes()) == 64
    assert_same(load(tree), uncached(tree))
    assert len(decodes()) == 32


@pytest.mark.parametrize(
    "options", [{"size": 5}, {"channels": 1}, {"test_fraction": 0.5}, {"size": 1}, {"test_fraction": 0.0}]
)
def test_other_options_have_a_file_of_their_own(photos: Path, decodes: Decodes, options: dict[str, Any]) -> None:
    load(photos)
    assert_same(load(photos, **options), uncached(photos, **options))
    decodes()
    load(photos)
    load(photos, **options)
    assert decodes() == []
    assert len(files(photos)) == 2


def rewrite_with_its_time(photos: Path) -> None:
    """Other pixels in as many bytes, and the time put back: only the time of the last change of anything differs."""
    file = photos / "a/0.png"
    Image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(file, compress_level=0)
    before = file.stat()
    raw = bytearray(file.read_bytes())
    Image.fromarray(np.full((6, 5, 3), 9, np.uint8)).save(file, compress_level=0)
    assert len(raw) == file.stat().st_size
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


EDITS: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "changed": (lambda photos: paint(photos / "a/0.png", 99), ["0.png"]),
    "changed with its time put back": (rewrite_with_its_time, ["0.png"]),
    "touched": (lambda photos: (photos / "a/0.png").touch(), ["0.png"]),
    "added": (lambda photos: paint(photos / "a/100.png", 100), ["100.png"]),
    "removed": (lambda photos: (photos / "a/0.png").unlink(), []),
    "renamed": (lambda photos: (photos / "a/0.png").rename(photos / "a/zero.png"), ["zero.png"]),
    "moved to another class": (lambda photos: (photos / "a/0.png").rename(photos / "b/0.png"), ["0.png"]),
    "all of a class removed": (lambda photos: shutil.rmtree(photos / "c"), []),
    "a class renamed": (lambda photos: (photos / "c").rename(photos / "0"), [f"{n}.png" for n in range(2, 24, 3)]),
}


@pytest.mark.parametrize("edit", EDITS)
def test_only_what_changed_is_decoded_anew(photos: Path, decodes: Decodes, edit: str) -> None:
    load(photos)
    decodes()
    change, anew = EDITS[edit]
    change(photos)
    data = load(photos)
    assert decodes() == sorted(anew)
    assert_same(data, uncached(photos))
    assert len(files(photos)) == 1, "the map that was replaced is gone"
    decodes()
    load(photos)
    assert decodes() == []


@settings(deadline=None, max_examples=12)
@given(data=st.data())
def test_whatever_happens_to_the_files_the_data_set_is_that_of_decoding(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder_name:
        photos = Path(folder_name, "photos")
        for number in range(8):
            paint(photos / "ab"[number % 2] / f"{number}.png", number)
        for step in range(4):
            assert_same(load(photos), uncached(photos))
            file = data.draw(st.sampled_from(sorted(photos.rglob("*.png"))))
            edit = data.draw(st.sampled_from(["paint", "add", "remove", "rename", "move"]))
            if edit == "paint":
                paint(file, 100 + step)
            elif edit == "add":
                paint(file.with_name(f"new{step}.png"), 200 + step)
            elif edit == "remove" and len(list(file.parent.iterdir())) > 1:
                file.unlink()
            elif edit == "rename":
                file.rename(file.with_name(f"{step}-{file.name}"))
            elif edit == "move" and len(list(file.parent.iterdir())) > 1:
                file.rename(photos / ("b" if file.parent.name == "a" else "a") / f"moved{step}.png")
        assert_same(load(photos), uncached(photos))


def test_another_version_of_the_decoder_decodes_anew(
    photos: Path, decodes: Decodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(photos)
    decodes()
    monkeypatch.setattr(module, "FORMAT", "1, Pillow 99")
    load(photos)
    assert len(decodes()) == 24


# Damaged files ------------------------------------------------------------------------------------------


def test_a_file_cut_off_anywhere_is_decoded_anew(photos: Path, decodes: Decodes) -> None:
    load(photos)
    expected = uncached(photos)
    (file,) = files(photos)
    whole = file.read_bytes()
    for length in [*range(0, len(whole), len(whole) // 15), len(whole) - 1]:
        file.write_bytes(whole[:length])
        decodes()
        assert_same(load(photos), expected)
        assert len(decodes()) == 24


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(100_000), b"PK\5\6" + bytes(18), b"PK\3\4" * 999])
def test_garbage_is_decoded_anew(photos: Path, decodes: Decodes, content: bytes) -> None:
    load(photos)
    expected = uncached(photos)
    files(photos)[0].write_bytes(content)
    decodes()
    assert_same(load(photos), expected)
    assert len(decodes()) == 24


@settings(deadline=None, max_examples=40)
@given(position=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_anywhere_is_noticed_even_with_the_time_put_back_where_it_is_no_pixel(
    position: float, flip: int
) -> None:
    with tempfile.TemporaryDirectory() as folder_name:
        photos = Path(folder_name, "photos")
        for number in range(4):
            paint(photos / "ab"[number % 2] / f"{number}.png", number)
        load(photos, size=2)
        expected = uncached(photos, size=2)
        (file,) = files(photos)
        raw, before = bytearray(file.read_bytes()), file.stat()
        at = 4 * 12 + int(position * (len(raw) - 4 * 12))
        raw[at] ^= flip
        file.write_bytes(raw)
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert_same(load(photos, size=2), expected)


def test_a_changed_pixel_is_noticed_by_the_time(photos: Path, decodes: Decodes) -> None:
    load(photos)
    expected = uncached(photos)
    with files(photos)[0].open("rb+") as stream:
        stream.write(b"\0\1\2")
    decodes()
    assert_same(load(photos), expected)
    assert len(decodes()) == 24


def test_a_broken_image_is_named_and_the_others_are_kept(photos: Path, decodes: Decodes) -> None:
    (photos / "b/1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match=r"b/1\.png: not a readable image \([^)]*\)$"):
        load(photos)
    decodes()
    with pytest.raises(UserError, match=r"b/1\.png: not a readable image"):
        load(photos)
    assert decodes() == ["1.png"]
    (photos / "b/4.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"b/\d\.png: not a readable image .*, the first of 2 such files: b/\d\.png$"):
        load(photos)
    paint(photos / "b/1.png")
    paint(photos / "b/4.png")
    decodes()
    assert_same(load(photos), uncached(photos))


def test_the_first_twenty_broken_images_are_named(photos: Path) -> None:
    for file in photos.glob("*/*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"^\S+\.png: not .*, the first of 24 such files: (\w/\d+\.png, ){19}\.\.\.$"):
        load(photos)


def test_a_link_to_nothing_is_named(photos: Path) -> None:
    (photos / "a/it.png").symlink_to("nowhere")
    for _ in range(3):  # at every start
        with pytest.raises(UserError, match=r"a/it\.png: not a readable image \(not a file\)"):
            load(photos)
    (photos / "a/it.png").unlink()
    assert_same(load(photos), uncached(photos))


def test_a_start_that_is_stopped_waits_for_the_images_under_way_alone(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    @contextmanager
    def stopping(file: Path, name: str) -> Any:
        opened.append(name)
        if len(opened) == 1:
            raise KeyboardInterrupt  # of the thread, which the main one is given
        yield Image.new("RGB", (4, 4))

    monkeypatch.setattr(module, "open_image", stopping)
    monkeypatch.setattr(module, "cores", lambda: 1)
    monkeypatch.setattr(module, "BATCH_IMAGES", 1)
    with pytest.raises(KeyboardInterrupt):
        load(photos)
    assert len(opened) <= 3
    assert not files(photos)


# Several processes ----------------------------------------------------------------------------------------


@contextmanager
def never(file: Path, name: str) -> Any:
    """An image that takes for ever."""
    threading.Event().wait()
    yield


def decode_for_ever(photos: Path) -> None:
    module.open_image = never
    load(photos)


def test_a_killed_decode_leaves_nothing_that_is_taken_for_whole(photos: Path, decodes: Decodes) -> None:
    killed = FORK.Process(target=decode_for_ever, args=(photos,))
    killed.start()
    folder_of = photos.parent / "data/cache"
    assert wait_until(lambda: list(folder_of.glob(".*.part")), Poll(killed))
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert [file.suffix for file in files(photos)] == [".part"]
    expected = uncached(photos)
    decodes()
    assert_same(load(photos), expected)
    assert len(decodes()) == 24
    assert [file.suffix for file in files(photos)] == [".images"]


class Poll:
    """A process of multiprocessing with the method of subprocess.Popen that wait_until asks."""

    def __init__(self, process: Any) -> None:
        self.process = process

    def poll(self) -> int | None:
        return self.process.exitcode


def load_when_both_are_there(photos: Path, mine: Event, other: Event, queue: Any) -> None:
    count: list[str] = []

    def open_later(file: Path, name: str) -> Any:
        other.wait()
        count.append(name)
        return open_image(file, name)

    module.open_image = open_later  # type: ignore[assignment]
    mine.set()
    data = load(photos)
    queue.put((len(count), data.fingerprint, data.train_images.sum().item()))


def test_of_two_processes_that_start_at_once_one_decodes_and_both_map(photos: Path) -> None:
    events, queue = (FORK.Event(), FORK.Event()), FORK.Queue()
    both = [
        FORK.Process(target=load_when_both_are_there, args=(photos, *pair, queue)) for pair in (events, events[::-1])
    ]
    for process in both:
        process.start()
    found: list[tuple[int, str, int]] = []
    while len(found) < len(both):
        assert not any(process.exitcode for process in both)
        with suppress(Empty):
            found.append(queue.get(timeout=0.1))
    for process in both:
        process.join()
    expected = uncached(photos)
    assert sorted(count for count, *_ in found) == [0, 24]
    assert {tuple(rest) for _, *rest in found} == {(expected.fingerprint, expected.train_images.sum().item())}


def test_a_map_that_is_replaced_or_removed_under_a_process_keeps_its_pixels(photos: Path) -> None:
    data = load(photos)
    before = data.train_images.clone()
    paint(photos / "a/0.png", 99)
    load(photos)
    assert torch.equal(data.train_images, before)
    module.clear(photos.parent / "data/cache")
    assert torch.equal(data.train_images, before)


def test_what_is_written_into_the_images_does_not_reach_the_file(photos: Path, decodes: Decodes) -> None:
    load(photos).train_images.zero_()
    decodes()
    assert_same(load(photos), uncached(photos))


# The folder of the cache ----------------------------------------------------------------------------------


def test_a_cache_that_cannot_be_written_is_done_without(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos.parent / "file").touch()
    assert_same(load(photos, data_dir=str(photos.parent / "file/data")), uncached(photos))
    printed = capsys.readouterr().out.replace("\n", "")
    assert f"data_dir={photos.parent / 'file/data'}: cannot keep 0.0 MB of images (Not a directory)" in printed


def test_where_there_is_neither_disk_nor_memory_that_is_one_line(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos.parent / "file").touch()
    monkeypatch.setattr(module, "available_memory", lambda: 2000)
    with pytest.raises(UserError, match=r"data_dir=.*file: cannot keep 0\.0 MB of images \(.*\); use data_dir=FOLDER"):
        load(photos, data_dir=str(photos.parent / "file"))


def test_a_full_disk_is_known_before_anything_is_decoded(photos: Path, decodes: Decodes) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        patch.setattr(module, "available_memory", lambda: 0)
        with pytest.raises(UserError, match="No space left on device"):
            load(photos)
    assert decodes() == []
    assert files(photos) == []


def test_a_cache_that_may_only_be_read_is_used(photos: Path, decodes: Decodes, monkeypatch: pytest.MonkeyPatch) -> None:
    load(photos)
    decodes()
    monkeypatch.setattr(module, "_locked", lambda _: pytest.fail("was to be written"))
    assert_same(load(photos), uncached(photos))


def test_the_cache_within_the_folder_of_images_is_no_class(photos: Path) -> None:
    before = load(photos, data_dir=str(photos))
    assert before.classes == ["a", "b", "c"]
    assert_same(load(photos, data_dir=str(photos)), before)


def test_a_class_named_cache_stays_one(photos: Path) -> None:
    paint(photos / "cache/1.png")
    for _ in range(2):
        assert load(photos, data_dir=str(photos)).classes == ["a", "b", "c", "cache"]


def test_where_the_images_exceed_the_memory_the_disk_is_timed(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(photos)
    assert " disk " not in capsys.readouterr().out
    monkeypatch.setattr(module, "available_memory", lambda: 24 * 3 * 9 + 5)
    load(photos)
    assert " images/s; data.size=3 would fit" in capsys.readouterr().out.replace("\n", "")


# Maps -----------------------------------------------------------------------------------------------------


def test_pages_are_released_when_many_were_read(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released: list[int] = []
    monkeypatch.setattr(memory_map, "RESIDENT", 999)
    monkeypatch.setattr(memory_map.MemoryMap, "madvise", lambda *_: released.append(1))
    data = load(photos)
    mapped = memory_map.find_map(data.test_images.data_ptr())
    assert mapped is memory_map.find_map(data.train_images.data_ptr())
    assert mapped is not None
    mapped.use(999)
    assert released == []
    mapped.use(1)
    assert released == [1]
    mapped.use(999)
    assert released == [1]


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_are_read_from_the_file_as_memory_gives_them(tmp_path: Path, channels_last: bool) -> None:
    (tmp_path / "pixels").write_bytes(b"head" + np.random.default_rng(0).bytes(20 * 60))
    flat = torch.from_numpy(memory_map.map_file(tmp_path / "pixels")[4:])
    images = flat.view(20, 4, 5, 3).permute(0, 3, 1, 2) if channels_last else flat.view(20, 3, 4, 5)
    mapped = memory_map.find_map(images.data_ptr())
    assert mapped is not None
    for part in (images, images[7:], images[:, :1], images[:, :, ::2]):
        for rows in (torch.tensor([5, 0, 12, 5]), torch.arange(0)):
            taken = mapped.take(part, rows)
            assert torch.equal(taken, part[rows])
            assert not len(rows) or taken.stride() == part[rows].stride()
    os.truncate(tmp_path / "pixels", 100)
    with pytest.raises(UserError, match="pixels: was changed while it was read"):
        mapped.take(images, torch.tensor([3]))


def test_images_in_memory_are_in_no_map(photos: Path) -> None:
    load(photos)
    assert memory_map.find_map(uncached(photos).train_images.data_ptr()) is None
    assert memory_map.find_map(torch.empty(0).data_ptr()) is None


RUN = ("data=folder", "data.path=photos", "data.size=6", "data.batch_size=4", "data.augmentation.flip=true",
       "model=linear", "scheduler=none", "report=false", "device=cpu")  # fmt: skip


def test_a_resumed_run_and_one_that_releases_its_pages_are_equal_to_the_last_bit(photos: Path) -> None:
    work = photos.parent
    once = train(work, *RUN, "trainer.max_epochs=2", "hydra.run.dir=once")
    assert (once.returncode, once.stderr) == (0, "")
    assert "decoding   24 of 24 images of photos" in once.stdout
    small = {"smallvision.data.memory_map.RESIDENT": 100}
    first = train(work, *RUN, "trainer.max_epochs=1", "hydra.run.dir=twice", patches=small)
    assert "decod" not in first.stdout
    assert train(work, "resume=twice", "trainer.max_epochs=2", patches=small).returncode == 0
    weights = [torch.load(work / run / "checkpoints/last.ckpt", weights_only=True) for run in ("once", "twice")]
    assert results(work / "once")["data"] == results(work / "twice")["data"]
    for name, weight in weights[0]["state_dict"].items():
        assert torch.equal(weight, weights[1]["state_dict"][name]), name


def test_a_sweep_decodes_once(photos: Path) -> None:
    sweep = train(photos.parent, "-m", *RUN, "trainer.max_epochs=1", "seed=0,1,2", "sweep.workers=2")
    assert sweep.returncode == 0, sweep.stderr
    logs = [file.read_text() for file in photos.parent.glob("outputs/sweeps/*/*/train.log")]
    assert len(logs) == 3
    assert sum("decoding   24 of 24" in log for log in logs) == 1


# task=clean -----------------------------------------------------------------------------------------------


def test_clear_removes_what_is_ours_and_nothing_else(photos: Path) -> None:
    load(photos)
    load(photos, size=5)
    (ours, also) = files(photos)
    left = ours.with_name(f".{ours.name}.0123abcd.part")
    left.write_bytes(bytes(10))
    theirs = [ours.with_name(name) for name in ("mine.images", "photos-0123.images", f"{ours.name}.bak")]
    for file in theirs:
        file.touch()
    sizes = {file: file.stat().st_size for file in (left, ours, also)}
    assert module.clear(ours.parent) == sizes
    assert files(photos) == sorted(theirs)


def test_clear_waits_for_nobody(photos: Path) -> None:
    load(photos)
    with module._locked(photos.parent / "data/cache"), pytest.raises(UserError, match="another process is decoding"):
        module.clear(photos.parent / "data/cache")
    assert len(files(photos)) == 1
