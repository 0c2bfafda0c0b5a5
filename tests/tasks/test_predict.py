"""What is in pictures of any kind, by a checkpoint alone."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import odd_files
from helpers.command import NO_NETWORK, TINY, TRAIN, results
from helpers.forks import train
from PIL import Image

from smallvision.data.shapes import shapes
from smallvision.reports.predictions import one_line

DATA = os.environ.get("SMALLVISION_DATA", "")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predict(folder: Path, run: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    checkpoint = f"checkpoint={folder / 'run/checkpoints/best.ckpt'}"
    return train(run.parent, "task=predict", checkpoint, *typed, f"hydra.run.dir={run.name}")


@pytest.fixture(scope="module")
def test_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of TINY, each in a folder called as its class."""
    root = tmp_path_factory.mktemp("test_images")
    data = shapes(images=700, test_images=200)
    for number, (image, label) in enumerate(zip(data.test_images, data.test_labels, strict=True)):
        place = root / data.classes[int(label)].replace(" ", "_").upper()
        place.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{number}.png")
    return root


def test_a_test_set_saved_as_pictures_gives_the_run_s_own_test_accuracy(finished, test_images, tmp_path):
    folder, _ = finished
    process = predict(folder, tmp_path / "told", f"images={test_images}")
    assert (process.returncode, process.stderr) == (0, "")
    found = results(tmp_path / "told")
    assert (found["status"], found["task"], found["pictures"], found["unreadable"]) == (
        "completed", "predict", 200, 0,
    )  # fmt: skip
    assert found["known"] == 200
    assert found["right"] == round(200 * results(folder / "run")["metrics"]["test/acc"])
    assert "n = 200 in folders" in process.stdout
    assert "and 180 more: predictions.csv has them all" in process.stdout
    told = rows(tmp_path / "told")
    assert len(told) == 200
    assert {(row["polarity"], row["resize"], row["error"]) for row in told} == {("kept", "unchanged", "")}
    assert sum(row["predicted"] == row["actual"] for row in told) == found["right"]
    assert all(float(row["probability"]) >= float(row["probability_2"]) for row in told)


def test_the_run_directory_holds_what_it_takes_to_do_it_again(finished, test_images, tmp_path):
    folder, _ = finished
    assert predict(folder, tmp_path / "told", f"images={test_images}/*/?.png").returncode == 0
    here = {file.name for file in (tmp_path / "told").iterdir()}
    assert here >= {
        "config.yaml", "overrides.yaml", "environment.json", "results.json", "train.log", "predictions.csv",
        "predictions.png",
    }  # fmt: skip
    assert not any(name.endswith(".part") for name in here)


def test_odd_files_are_each_read_or_named_and_none_harms_another(finished, tmp_path):
    folder, _ = finished
    good, bad = odd_files.make(tmp_path / "odd")
    assert len(good) + len(bad) >= 90
    process = predict(folder, tmp_path / "told", "images='odd/*'", "predict.saliency=true")
    assert (process.returncode, process.stderr) == (0, "")
    assert "Traceback" not in process.stdout
    assert "\x1b" not in process.stdout
    told = {row["file"]: row for row in rows(tmp_path / "told")}
    assert told.keys() == {one_line(f"odd/{name}") for name in good | bad}
    assert {name for name in good if told[one_line(f"odd/{name}")]["error"]} == set()
    assert {name for name in bad if not told[one_line(f"odd/{name}")]["error"]} == set()
    found = results(tmp_path / "told")
    assert (found["pictures"], found["unreadable"]) == (len(good) + len(bad), len(bad))
    assert f"{len(bad)} of {len(good) + len(bad)} files could not be read" in process.stdout


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ("nowhere.png", "error: images=nowhere.png: cannot be read: no such file or folder\n"),
        ("empty.png", "error: images=empty.png: cannot be read: an empty file\n"),
        ("[empty.png,words.png]", "nor can 1 others\n"),
        ("pipe.png", "not a file\n"),
        ("folder.png", "a folder without images\n"),
    ],
)
def test_where_nothing_can_be_read_nothing_is_left_behind(finished, tmp_path, images, words):
    folder, _ = finished
    odd_files.make(tmp_path / "odd")
    checkpoint = f"checkpoint={folder / 'run/checkpoints/best.ckpt'}"
    process = train(tmp_path / "odd", "task=predict", checkpoint, f"images={images}", "hydra.run.dir=../told")
    assert process.returncode == 2
    assert process.stderr.endswith(words)
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "told").exists()


def test_images_must_be_typed(finished, tmp_path):
    process = predict(finished[0], tmp_path / "told")
    assert process.returncode == 2
    assert process.stderr == "error: images: needs a value; type images=VALUE\n"


def test_the_same_command_gives_the_same_sheet(finished, test_images, tmp_path):
    folder, _ = finished
    for name in ("one", "two"):
        typed = [f"images={test_images}/*/?.png", "predict.saliency=true", "predict.top=99"]
        assert predict(folder, tmp_path / name, *typed).returncode == 0
    for file in ("predictions.csv", "predictions.png"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    with Image.open(tmp_path / "one/predictions.png") as sheet:
        assert min(sheet.size) > 200
    assert sum(float(rows(tmp_path / "one")[0][f"probability_{k}"]) for k in range(2, 11)) < 1


def test_a_sheet_of_none_is_no_sheet(finished, test_images, tmp_path):
    process = predict(finished[0], tmp_path / "told", f"images={test_images}/*/?.png", "predict.sheet=0")
    assert process.returncode == 0
    assert not (tmp_path / "told/predictions.png").exists()
    assert "predictions.png" not in process.stdout


def test_a_picture_or_names_come_in_by_standard_input(finished, test_images, tmp_path):
    folder, _ = finished
    file = next(test_images.glob("*/1.png"))
    environment = {**os.environ, **NO_NETWORK}
    for number, content in enumerate((file.read_bytes(), f"{file}\nmissing.png\n".encode())):
        process = subprocess.run(
            [sys.executable, TRAIN, "task=predict", f"checkpoint={folder / 'run/checkpoints/best.ckpt'}",
             "images=-", f"hydra.run.dir=told{number}"],
            cwd=tmp_path, env=environment, input=content, capture_output=True, timeout=120, check=False,
        )  # fmt: skip
        assert (process.returncode, process.stderr) == (0, b"")
    (piped,), (named, missing) = rows(tmp_path / "told0"), rows(tmp_path / "told1")
    assert (piped["file"], piped["actual"]) == ("standard input", "")
    assert (piped["predicted"], piped["probability"]) == (named["predicted"], named["probability"])
    assert missing["error"] == "no such file or folder"


def altered(folder: Path, target: Path, **changes: object) -> Path:
    """A checkpoint like that of the finished run that says other things of itself."""
    saved = torch.load(folder / "run/checkpoints/best.ckpt", weights_only=True)
    for key, change in changes.items():
        saved["smallvision"][key] = {**saved["smallvision"][key], **change} if key == "data" else change
    torch.save(saved, target)
    return target


def test_a_network_that_learnt_a_stand_in_says_so_first_and_last(finished, test_images, tmp_path):
    file = altered(finished[0], tmp_path / "it.ckpt", data={"stand_in_for": "fashion_mnist"})
    process = train(
        tmp_path, "task=predict", f"checkpoint={file}", f"images={test_images}/*/?.png", "hydra.run.dir=told"
    )
    assert process.returncode == 0, process.stderr
    line = "STAND-IN: this network learnt shapes, not fashion_mnist: its answers say nothing about fashion_mnist"
    assert process.stdout.count(line) == 2
    assert results(tmp_path / "told")["data"]["stand_in_for"] == "fashion_mnist"


def test_hostile_class_names_neither_command_the_terminal_nor_forge_lines(finished, test_images, tmp_path):
    names = [f"{number}\n\x1b[2Jerror: {'x' * 999}" for number in range(10)]
    file = altered(finished[0], tmp_path / "it.ckpt", classes=names)
    process = train(
        tmp_path, "task=predict", f"checkpoint={file}", f"images={test_images}/*/?.png", "hydra.run.dir=told"
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert "\x1b" not in process.stdout
    assert max(map(len, process.stdout.splitlines())) < 1000
    assert all(row["predicted"].isprintable() for row in rows(tmp_path / "told"))


def test_digits_dark_on_light_are_turned_round_and_said(tmp_path):
    """On the digits that come with scikit-learn, which stand in for MNIST."""
    trained = train(tmp_path, "model=linear", "data=digits", "trainer.max_epochs=2", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    ink = np.asarray(odd_files.digit())
    for name, pixels in {"light": ink, "dark": 255 - ink}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray(pixels).resize((280, 280)).save(tmp_path / f"{name}-large.png")
    process = predict(tmp_path, tmp_path / "told", "images='*.png'")
    assert (process.returncode, process.stderr) == (0, "")
    assert "note       2 of 4 pictures are dark on light: inverted" in process.stdout
    told = {row["file"]: row for row in rows(tmp_path / "told")}
    assert {row["predicted"] for row in told.values()} == {told["light.png"]["predicted"]}
    assert told["dark.png"]["probability"] == told["light.png"]["probability"]
    kept = predict(tmp_path, tmp_path / "kept", "images='dark*.png'", "predict.polarity=keep")
    assert {row["polarity"] for row in rows(tmp_path / "kept")} == {"kept"}
    assert "inverted" not in kept.stdout


def test_a_folders_network_sees_pictures_as_its_own_test_did(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("test", 20)):
        for name, base in (("bright", 150), ("dim", 60)):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 100, (37, 50, 4)) + [base, base, base, 0]
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"data/{part}/{name}/{number}.png")
    trained = train(
        tmp_path, "data=folder", "data.path=data", "data.size=16", "model=linear", "data.val_size=4",
        "trainer.max_epochs=1", "hydra.run.dir=run",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert predict(tmp_path, tmp_path / "told", "images=data/test").returncode == 0
    found = results(tmp_path / "told")
    assert found["right"] == round(40 * results(tmp_path / "run")["metrics"]["test/acc"])
    assert {row["resize"] for row in rows(tmp_path / "told")} == {"stretched"}


@pytest.mark.parametrize("channels", [2, 4])
def test_networks_of_other_than_grey_or_colour_images_are_refused(tmp_path, channels):
    tiny = [*TINY, "model=linear", f"data.channels={channels}", "data.size=8", "trainer.max_epochs=1"]
    assert train(tmp_path, *tiny, "hydra.run.dir=run").returncode == 0
    Image.new("L", (8, 8)).save(tmp_path / "it.png")
    process = predict(tmp_path, tmp_path / "told", "images=it.png")
    assert process.returncode == 2
    assert f"best.ckpt: takes images of {channels} channels, and pictures come with 1" in process.stderr
    assert process.stderr.count("\n") == 1


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="SMALLVISION_DATA is not set: the real images are elsewhere")
def test_mnist_s_images_as_pictures_are_told_as_the_arrays_are(tmp_path):
    from smallvision.data.standard import mnist

    typed = ["model=linear", "trainer.max_epochs=1", f"data_dir={DATA}", "report=false"]
    assert train(tmp_path, *typed, "hydra.run.dir=run").returncode == 0
    data = mnist(DATA, offline="error")
    images = data.test_images[:200, 0].numpy()
    ways = {
        "png": Image.fromarray,
        "inverted": lambda pixels: Image.fromarray(255 - pixels),
        "large": lambda pixels: Image.fromarray(pixels).resize((280, 280), Image.Resampling.NEAREST),
        "sheet": lambda pixels: Image.fromarray(np.pad(255 - pixels, (30, 70), constant_values=255)),
    }
    told = {}
    for way, make in ways.items():
        (tmp_path / way).mkdir()
        for number, pixels in enumerate(images):
            make(pixels).save(tmp_path / way / f"{number:03}.png")
        assert predict(tmp_path, tmp_path / f"told-{way}", f"images={way}").returncode == 0
        told[way] = [row["predicted"] for row in rows(tmp_path / f"told-{way}")]
    assert told["png"] == told["inverted"] == told["large"]
    assert sum(a == b for a, b in zip(told["png"], told["sheet"], strict=True)) >= 198
    right = sum(int(a) == b for a, b in zip(told["png"], data.test_labels[:200].tolist(), strict=True))
    assert right >= 160
