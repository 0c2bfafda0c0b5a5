"""Images of any kind are classified, by a checkpoint alone."""

import csv
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers import odd_files
from helpers.command import results
from helpers.forks import shared, train
from PIL import Image

from smallvision.core.errors import UserError
from smallvision.data.shapes import shapes
from smallvision.reports.predictions import one_line
from smallvision.tasks import predict as predict_task

DATA = os.environ.get("SMALLVISION_DATA", "")


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "predictions.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def predict(folder: Path, run: Path, *typed: str) -> subprocess.CompletedProcess[str]:
    checkpoint = f"checkpoint={folder / 'run/checkpoints/best.ckpt'}"
    return train(run.parent, "task=predict", checkpoint, *typed, f"hydra.run.dir={run.name}")


@pytest.fixture(scope="module")
def test_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The test images of TINY, each in a folder named after its class."""
    root = tmp_path_factory.mktemp("test_images")
    data = shapes(images=700, test_images=200)
    for number, (image, label) in enumerate(zip(data.test_images, data.test_labels, strict=True)):
        folder = root / data.classes[int(label)].replace(" ", "_").upper()
        folder.mkdir(exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"{number}.png")
    return root


def test_a_test_set_saved_as_images_gives_the_test_accuracy_of_the_run(finished, test_images, tmp_path):
    folder, _ = finished
    process = predict(folder, tmp_path / "new", f"images={test_images}", "predict.contact_sheet=0")
    assert (process.returncode, process.stderr) == (0, "")
    found = results(tmp_path / "new")
    assert (found["status"], found["task"], found["images"], found["unreadable"]) == (
        "completed", "predict", 200, 0,
    )  # fmt: skip
    assert found["labelled"] == 200
    assert found["correct"] == round(200 * results(folder / "run")["metrics"]["test/acc"])
    assert "n = 200 in folders" in process.stdout
    assert "and 180 more: predictions.csv has them all" in process.stdout
    predictions = rows(tmp_path / "new")
    assert len(predictions) == 200
    assert {(row["polarity"], row["resize"], row["error"]) for row in predictions} == {("kept", "unchanged", "")}
    assert sum(row["predicted"] == row["actual"] for row in predictions) == found["correct"]
    assert all(float(row["probability"]) >= float(row["probability_2"]) for row in predictions)
    assert not (tmp_path / "new/predictions.png").exists()  # 0 images on the sheet: no sheet
    assert "predictions.png" not in process.stdout


def test_the_same_command_writes_the_same_table_and_sheet(finished, test_images, tmp_path):
    folder, _ = finished
    for name in ("first", "second"):
        typed = [f"images={test_images}/*/?.png", "predict.saliency=true", "predict.top_k=99"]
        assert predict(folder, tmp_path / name, *typed).returncode == 0
    for file in ("predictions.csv", "predictions.png"):
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes()
    with Image.open(tmp_path / "first/predictions.png") as sheet:
        assert min(sheet.size) > 200
    assert sum(float(rows(tmp_path / "first")[0][f"probability_{k}"]) for k in range(2, 11)) < 1
    written = {file.name for file in (tmp_path / "first").iterdir()}
    assert written >= {"config.yaml", "overrides.yaml", "environment.json", "results.json", "train.log"}
    assert not any(name.endswith(".part") for name in written)


def test_each_odd_file_is_read_or_named_and_the_others_are_predicted(finished, tmp_path):
    folder, _ = finished
    good, bad = odd_files.make(tmp_path / "odd")
    assert len(good) + len(bad) >= 90
    process = predict(folder, tmp_path / "new", "images='odd/*'", "predict.saliency=true")
    assert (process.returncode, process.stderr) == (0, "")
    assert "Traceback" not in process.stdout
    assert "\x1b" not in process.stdout
    predictions = {row["file"]: row for row in rows(tmp_path / "new")}
    assert predictions.keys() == {one_line(f"odd/{name}") for name in good | bad}
    assert {name for name in good if predictions[one_line(f"odd/{name}")]["error"]} == set()
    assert {name for name in bad if not predictions[one_line(f"odd/{name}")]["error"]} == set()
    found = results(tmp_path / "new")
    assert (found["images"], found["unreadable"]) == (len(good) + len(bad), len(bad))
    assert f"{len(bad)} of {len(good) + len(bad)} files could not be read" in process.stdout


@pytest.mark.parametrize(
    ("images", "error"),
    [
        ("nowhere.png", "error: images=nowhere.png: cannot be read: no such file or folder\n"),
        ("[empty.png,pipe.png]", "cannot be read: empty.png: an empty file; nor can 1 others\n"),
    ],
)
def test_where_nothing_can_be_read_no_run_directory_is_left(finished, tmp_path, images, error):
    (tmp_path / "empty.png").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.png")
    process = predict(finished[0], tmp_path / "new", f"images={images}")
    assert process.returncode == 2
    assert process.stderr.endswith(error)
    assert process.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_images_must_be_typed(finished, tmp_path):
    process = predict(finished[0], tmp_path / "new")
    assert process.returncode == 2
    assert process.stderr == "error: images: needs a value; type images=photos\n"


def test_an_image_comes_in_by_standard_input(finished, test_images, tmp_path):
    folder, _ = finished
    file = next(test_images.glob("*/1.png"))
    checkpoint = f"checkpoint={folder / 'run/checkpoints/best.ckpt'}"
    ended = shared().run(
        tmp_path, ["task=predict", checkpoint, "images=-", "hydra.run.dir=piped"], stdin=str(file), err="err.txt"
    )
    assert (ended["code"], (tmp_path / "err.txt").read_text()) == (0, "")
    assert predict(folder, tmp_path / "named", f"images={file}").returncode == 0
    (piped,), (named,) = rows(tmp_path / "piped"), rows(tmp_path / "named")
    assert (piped["file"], piped["actual"]) == ("standard input", "")
    assert (piped["predicted"], piped["probability"]) == (named["predicted"], named["probability"])


def test_stand_ins_are_named_first_and_last_and_hostile_class_names_are_shown_as_text(finished, test_images, tmp_path):
    saved = torch.load(finished[0] / "run/checkpoints/best.ckpt", weights_only=True)
    saved["smallvision"]["data"] |= {"stand_in_for": "fashion_mnist"}
    saved["smallvision"]["classes"] = [f"{number}\n\x1b[2Jerror: {'x' * 999}" for number in range(10)]
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    torch.save(saved, tmp_path / "run/checkpoints/best.ckpt")
    process = predict(tmp_path, tmp_path / "new", f"images={test_images}/*/?.png")
    assert (process.returncode, process.stderr) == (0, "")
    warning = "STAND-IN: trained on shapes, not on fashion_mnist: the predictions mean nothing for fashion_mnist"
    assert process.stdout.count(warning) == 2
    assert results(tmp_path / "new")["data"]["stand_in_for"] == "fashion_mnist"
    assert "\x1b" not in process.stdout
    assert max(map(len, process.stdout.splitlines())) < 1000
    assert all(row["predicted"].isprintable() for row in rows(tmp_path / "new"))


def test_digits_dark_on_light_are_inverted_and_counted(tmp_path):
    """On the digits that come with scikit-learn, which stand in for MNIST."""
    trained = train(tmp_path, "model=linear", "data=digits", "trainer.max_epochs=2", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    ink = np.asarray(odd_files.digit())
    for name, pixels in {"light": ink, "dark": 255 - ink}.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        Image.fromarray(pixels).resize((280, 280)).save(tmp_path / f"{name}-large.png")
    process = predict(tmp_path, tmp_path / "new", "images='*.png'")
    assert (process.returncode, process.stderr) == (0, "")
    assert "note       2 of 4 images are dark on light: inverted" in process.stdout
    predictions = {row["file"]: row for row in rows(tmp_path / "new")}
    assert {row["predicted"] for row in predictions.values()} == {predictions["light.png"]["predicted"]}
    assert predictions["dark.png"]["probability"] == predictions["light.png"]["probability"]
    kept = predict(tmp_path, tmp_path / "kept", "images='dark*.png'", "predict.polarity=keep")
    assert {row["polarity"] for row in rows(tmp_path / "kept")} == {"kept"}
    assert "inverted" not in kept.stdout


def test_a_network_trained_on_a_folder_gets_images_as_its_test_did(tmp_path):
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
    unseen = predict(tmp_path, tmp_path / "new", "images=data/test")
    assert (unseen.returncode, "was trained" in unseen.stdout) == (0, False)
    seen = predict(tmp_path, tmp_path / "seen", "images=data")
    assert "\n80 of them lie in data, on which the network was trained: task=test measures" in seen.stdout
    found = results(tmp_path / "new")
    assert found["correct"] == round(40 * results(tmp_path / "run")["metrics"]["test/acc"])
    assert {row["resize"] for row in rows(tmp_path / "new")} == {"stretched"}


@pytest.mark.parametrize("channels", [2, 4])
def test_networks_of_other_than_grey_or_colour_images_are_refused(channels):
    predictor: Any = SimpleNamespace(
        spec=SimpleNamespace(shape=(channels, 8, 8)), checkpoint=SimpleNamespace(path=Path("best.ckpt"))
    )
    with pytest.raises(UserError, match=f"^best.ckpt: takes images of {channels} channels; image files have 1 "):
        predict_task.input_spec(predictor, "shapes")


@pytest.mark.real_data
@pytest.mark.skipif(not DATA, reason="SMALLVISION_DATA is not set: the real images are elsewhere")
def test_mnist_saved_as_images_is_predicted_as_the_arrays_are(tmp_path):
    from smallvision.data.standard import mnist

    typed = [
        "model=linear",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=0.2",
        f"data_dir={DATA}",
        "report=false",
    ]
    assert train(tmp_path, *typed, "hydra.run.dir=run").returncode == 0
    data = mnist(DATA, offline="error")
    images = data.test_images[:200, 0].numpy()
    ways = {
        "png": Image.fromarray,
        "inverted": lambda pixels: Image.fromarray(255 - pixels),
        "large": lambda pixels: Image.fromarray(pixels).resize((280, 280), Image.Resampling.NEAREST),
        "sheet": lambda pixels: Image.fromarray(np.pad(255 - pixels, (30, 70), constant_values=255)),
    }
    predicted = {}
    for way, make in ways.items():
        (tmp_path / way).mkdir()
        for number, pixels in enumerate(images):
            make(pixels).save(tmp_path / way / f"{number:03}.png")
        assert predict(tmp_path, tmp_path / f"{way}-run", f"images={way}").returncode == 0
        predicted[way] = [row["predicted"] for row in rows(tmp_path / f"{way}-run")]
    assert predicted["png"] == predicted["inverted"] == predicted["large"]
    assert sum(a == b for a, b in zip(predicted["png"], predicted["sheet"], strict=True)) >= 198
    right = sum(int(a) == b for a, b in zip(predicted["png"], data.test_labels[:200].tolist(), strict=True))
    assert right >= 160
