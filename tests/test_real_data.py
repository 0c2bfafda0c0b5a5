"""Tests on the real images in $SMALLVISION_DATA; CI sets it."""

import gzip
import os
from pathlib import Path

import pytest
from helpers.command import results
from helpers.forks import train

from smallvision.data.standard import cifar10, fashion_mnist, mnist

DATA = os.environ.get("SMALLVISION_DATA", "")
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not DATA, reason="SMALLVISION_DATA, the folder of the real images, is not set"),
]


@pytest.mark.parametrize(
    ("source", "shape", "train_images", "first_labels"),
    [
        (mnist, (1, 28, 28), 60_000, [5, 0, 4, 1, 9]),
        (fashion_mnist, (1, 28, 28), 60_000, [9, 0, 0, 3, 0]),
        (cifar10, (3, 32, 32), 50_000, [6, 9, 9, 4, 1]),
    ],
)
def test_the_official_images_are_recognised(source, shape, train_images, first_labels):
    data = source(DATA, offline="error")
    assert data.stand_in_for is None
    assert data.shape == shape
    assert len(data.train_labels) == train_images
    assert data.train_labels[:5].tolist() == first_labels


def test_a_real_file_with_one_altered_bit_is_refused_by_name(tmp_path):
    raw = tmp_path / "MNIST/raw"
    raw.mkdir(parents=True)
    for file in (Path(DATA) / "MNIST/raw").glob("*.gz"):
        (raw / file.name).symlink_to(file)
    altered = bytearray(gzip.decompress((raw / "t10k-images-idx3-ubyte.gz").read_bytes()))
    altered[5_000] ^= 1
    (raw / "t10k-images-idx3-ubyte").write_bytes(altered)
    process = train(tmp_path, "model=mnist", "data_dir=.")
    assert process.returncode == 2
    assert process.stderr.startswith("error: MNIST/raw/t10k-images-idx3-ubyte: altered")


@pytest.mark.parametrize(("model", "accuracy"), [("mnist", 0.95), ("fashion_mnist", 0.82), ("linear", 0.88)])
def test_one_epoch_reaches_the_accuracy_expected(tmp_path, model, accuracy):
    typed = [f"model={model}", "optimizer=adam", "trainer.max_epochs=1", f"data_dir={DATA}", "report=false"]
    process = train(tmp_path, *typed, "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    found = results(tmp_path / "run")
    assert (found["data"]["train"], found["data"]["val"], found["data"]["test"]) == (55_000, 5_000, 10_000)
    assert found["data"]["stand_in_for"] is None
    assert found["metrics"]["test/acc"] >= accuracy


def test_cifar10_learns_and_reports_that_its_test_set_is_incomplete(tmp_path):
    process = train(
        tmp_path, "model=cifar10", "optimizer=adam", "trainer.max_epochs=1", "trainer.limit_train_batches=60",
        "model.widths=[16,32,64]", f"data_dir={DATA}", "report=false", "hydra.run.dir=run",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "only 1,000 of the 10,000 test images are here" in process.stdout
    found = results(tmp_path / "run")
    assert found["data"]["test"] == 1_000
    assert found["metrics"]["test/acc"] > 0.3
