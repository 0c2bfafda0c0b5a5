"""The tutorials' programs as experiments: their defaults, their options, their model.pt."""

import gzip
import re
from pathlib import Path

import pytest
import torch
import yaml
from helpers import plain_loop
from helpers.command import TINY, results
from helpers.forks import train, train_without_torch
from torch import nn
from torch.nn import functional as F

from smallvision.data.shapes import shapes

SHORT = ("data=shapes", "data.images=700", "data.test_images=200", "data.val_size=60")


def config(run: Path) -> dict:
    return yaml.safe_load((run / "config.yaml").read_text())


@pytest.fixture(scope="module")
def mnist(tmp_path_factory: pytest.TempPathFactory):
    """The folder and the process of tutorial_mnist, on other images of its form, for two epochs."""
    folder = tmp_path_factory.mktemp("mnist")
    numbers = ("data.normalisation.mean=[0.1307]", "data.normalisation.std=[0.3081]")
    return folder, train(
        folder, "experiment=tutorial_mnist", *SHORT, *numbers, "trainer.max_epochs=2",
        "log_every_n_batches=10", "hydra.run.dir=run",
    )  # fmt: skip


def test_a_tutorial_s_run_has_the_tutorial_s_defaults(mnist):
    folder, process = mnist
    assert (process.returncode, process.stderr) == (0, "")
    found = config(folder / "run")
    optimizer = found["optimizer"]
    assert (optimizer["_target_"], optimizer["lr"], optimizer["momentum"]) == ("torch.optim.SGD", 0.01, 0.0)
    assert (found["seed"], found["data"]["batch_size"], found["data"]["eval_batch_size"]) == (1, 32, 1000)
    assert (found["scheduler"]["name"], found["save_model"]) == ("none", "model.pt")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tutorial_mnist", ["epochs: 10", "lr 0.01", "mnist", "0.1307", "batches 32"]),
        ("tutorial_fashion", ["epochs: 5", "lr 0.001", "fashion_mnist", "0.0", "batches 64"]),
        ("tutorial_cifar10", ["epochs: 10", "lr 0.01", "cifar10", "0.4914", "batches 32"]),
    ],
)
def test_an_experiment_composes_to_what_the_tutorial_says(tmp_path, name, said):
    process = train_without_torch(tmp_path, f"experiment={name}", "--cfg", "job")
    assert (process.returncode, process.stderr) == (0, "")
    found = yaml.safe_load(process.stdout)
    assert [
        f"epochs: {found['trainer']['max_epochs']}", f"lr {found['optimizer']['lr']}", found["data"]["name"],
        str(found["data"]["normalisation"]["mean"][0]), f"batches {found['data']['batch_size']}",
    ] == said  # fmt: skip
    assert found["data"]["name"] == found["model"]["name"]
    assert not any(found["data"]["augmentation"].values())
    assert found["device"]["precision"] == "32"


def test_adam_is_one_word_more(tmp_path):
    process = train_without_torch(tmp_path, "experiment=tutorial_mnist", "optimizer=adam", "--cfg", "job")
    optimizer = yaml.safe_load(process.stdout)["optimizer"]
    assert (optimizer["_target_"], optimizer["lr"]) == ("torch.optim.Adam", 0.01)


def test_losses_are_printed_as_the_quickstart_prints_them(mnist):
    _, process = mnist
    lines = re.findall(r"^loss: (\d\.\d{6})  \[ *(\d+)/ *640\]$", process.stdout, re.M)
    assert [int(seen) for _, seen in lines] == [32, 352] * 2  # of 20 batches the first and the eleventh
    assert float(lines[-1][0]) < float(lines[0][0])


def test_gathered_batches_tell_the_loss_of_each(tmp_path):
    typed = (*TINY, "device=cpu", "log_every_n_batches=1", "trainer.max_epochs=1")
    once = train(tmp_path, *typed, "report=false", "hydra.run.dir=once")
    gathered = train(tmp_path, *typed, "report=false", "trainer.accumulate_grad_batches=4", "hydra.run.dir=four")
    first, second = (re.findall(r"^loss: (\S+)", process.stdout, re.M) for process in (once, gathered))
    assert len(first) == len(second) == 10
    assert float(second[0]) == pytest.approx(float(first[0]), abs=2e-6)


# model.pt ------------------------------------------------------------------------------------------------


def test_model_pt_is_loaded_by_a_plain_class_and_gives_the_run_s_own_figures(mnist):
    folder, _ = mnist
    network = plain_loop.ConvNet()
    saved = torch.load(folder / "run/model.pt", weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), saved.values(), strict=True)))
    assert [*saved] == [f"{layer}.{part}" for layer in ("features.0", "features.3", "classifier")
                        for part in ("weight", "bias")]  # fmt: skip
    data = shapes(images=700, test_images=200, size=28, channels=1)
    with torch.no_grad():
        logs = network.eval()(plain_loop.transforms([0.1307], [0.3081])(data.test_images))
    found = results(folder / "run")
    assert found["saved_model"] == "run/model.pt"
    assert (logs.argmax(1) == data.test_labels).double().mean().item() == found["metrics"]["test/acc"]
    assert F.nll_loss(logs, data.test_labels).item() == pytest.approx(found["metrics"]["test/loss"], rel=1e-5)


def test_model_pt_is_tested_by_the_network_and_data_that_are_typed(mnist, tmp_path):
    folder, _ = mnist
    file = f"checkpoint={folder / 'run/model.pt'}"
    numbers = ("data.normalisation.mean=[0.1307]", "data.normalisation.std=[0.3081]")
    for name, choice in (("a", "model=mnist"), ("b", "experiment=tutorial_mnist")):
        process = train(tmp_path, "task=test", file, choice, *SHORT, *numbers, f"hydra.run.dir={name}")
        assert (process.returncode, process.stderr) == (0, "")
        assert "a bare state dict, which does not say its network or its data" in process.stdout
        assert "normalised by mean 0.1307, std 0.3081" in process.stdout
        now, then = results(tmp_path / name)["metrics"], results(folder / "run")["metrics"]
        assert (now["test/loss"], now["test/acc"]) == (then["test/loss"], then["test/acc"])


def test_the_quickstart_s_class_loads_ours_and_ours_loads_its(tmp_path):
    process = train(
        tmp_path, "experiment=tutorial_fashion", *SHORT, "trainer.max_epochs=1", "save_model=deep/er/net.pth",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (0, "")
    network = plain_loop.NeuralNetwork()
    network.load_state_dict(torch.load(tmp_path / "run/deep/er/net.pth", weights_only=True))
    nn.init.normal_(network.linear_relu_stack[4].weight)
    torch.save(network.state_dict(), tmp_path / "theirs.pt")
    typed = ("task=test", "checkpoint=theirs.pt", "experiment=tutorial_fashion", *SHORT)
    tested = train(tmp_path, *typed, "hydra.run.dir=tested")
    assert (tested.returncode, tested.stderr) == (0, "")
    data = shapes(images=700, test_images=200, size=28, channels=1)
    with torch.no_grad():
        logits = network(data.test_images / 255)
    expected = (logits.argmax(1) == data.test_labels).double().mean().item()
    assert results(tmp_path / "tested")["metrics"]["test/acc"] == expected


def test_a_bare_state_dict_on_a_stand_in_says_so(tmp_path):
    torch.save(plain_loop.ConvNet().state_dict(), tmp_path / "model.pt")
    typed = ("task=test", "checkpoint=model.pt", "model=mnist", "data=mnist", "data_dir=nowhere")
    process = train(tmp_path, *typed, "hydra.run.dir=tested")
    assert (process.returncode, process.stderr) == (0, "")
    assert "STAND-IN: these images are not mnist" in process.stdout
    assert "these metrics say nothing about mnist" in process.stdout
    assert results(tmp_path / "tested")["data"]["stand_in_for"] == "mnist"


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ([], "model.pt: a plain state dict does not hold its network; type model=NAME and data=NAME"),
        (["data=shapes"], "model.pt: a plain state dict does not hold its network"),
        (["model=fashion_mnist", *SHORT], "model.pt: its conv1.weight (float32, 10 x 1 x 3 x 3) does"),
        (["model=mnist", *SHORT, "model.widths=[10,21]"], "model.pt: its conv2.weight (float32, 20 x 10 x"),
        (["model=mnist", *SHORT, "model.width=[10]"], "model.width: no such key. Did you mean"),
        (["model=mnist", *SHORT, "data.size=30"], "model.pt: its fc.weight (float32, 10 x 500) does not fit"),
        (["model=mnist", *SHORT, "data.normalisation.whiten=2"], "data.normalisation.whiten=2: a bare state"),
        (["model=mnist", "optimizer=adam"], "optimizer: cannot be changed here"),
        (["model=mnis"], "model=mnis: no such choice"),
        (["model=mnist", *SHORT, "data.test_images=0"], "data=shapes: has no test images"),
    ],
)  # fmt: skip
def test_what_does_not_fit_a_bare_state_dict_is_refused_in_one_line(tmp_path, typed, words):
    torch.save(plain_loop.ConvNet().state_dict(), tmp_path / "model.pt")
    process = train(tmp_path, "task=test", "checkpoint=model.pt", *typed, "hydra.run.dir=tested")
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: {words}")
    assert process.stderr.count("\n") == 1


def test_other_tasks_say_what_a_bare_state_dict_is_for(tmp_path):
    (tmp_path / "x.png").touch()
    torch.save(plain_loop.ConvNet().state_dict(), tmp_path / "model.pt")
    process = train(tmp_path, "task=predict", "checkpoint=model.pt", "images=x.png")
    assert process.returncode == 2
    assert "a bare state dict: task=test model=NAME data=NAME tests it" in process.stderr


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("save_model=config.yaml", "save_model=config.yaml: must be null or a file that ends in .pt or .pth"),
        ("save_model=.pt", "save_model=.pt: must be"),
        ("save_model=folder.pt", "save_model=folder.pt: is a folder"),
        ("save_model=taken/model.pt", "save_model=taken/model.pt: cannot be written"),
        (f"save_model={'a' * 300}.pt", f"save_model={'a' * 300}.pt: cannot be written: File name too long"),
        ("data.normalisation.whiten=2", "save_model=model.pt: a plain state dict has no place for"),
        ("log_every_n_batches=0", "log_every_n_batches=0: must be null or a whole number at least 1"),
    ],
)
def test_a_save_model_that_cannot_be_is_refused_before_training(tmp_path, typed, words):
    (tmp_path / "run/folder.pt").mkdir(parents=True)
    (tmp_path / "run/taken").write_text("")
    process = train(tmp_path, *TINY, "save_model=model.pt", typed, "hydra.run.dir=run")
    assert process.returncode == 2
    assert {line.split()[0] for line in process.stdout.splitlines()} <= {"smallvision:", "reading"}
    assert process.stderr.startswith(f"error: {words}")
    assert process.stderr.count("\n") == 1


def test_a_file_s_config_chooses_nothing_outside_of_its_run_and_a_user_does(tmp_path):
    precious = tmp_path / "precious.pt"
    precious.write_text("mine")
    typed = (*TINY, "trainer.max_epochs=1", "hydra.run.dir=run")
    quiet = train(tmp_path, *typed)
    assert quiet.returncode == 0
    assert "loss: " not in quiet.stdout  # nobody asked for it
    kept = config(tmp_path / "run")
    for path in (str(precious), "../precious.pt"):
        (tmp_path / "run/config.yaml").write_text(yaml.safe_dump(kept | {"save_model": path}))
        process = train(tmp_path, "resume=run")
        assert process.returncode == 2
        assert process.stderr.startswith(f"error: save_model={path}: lies outside of the run directory")
        assert process.stderr.count("\n") == 1
    assert precious.read_text() == "mine"
    process = train(tmp_path, "resume=run", f"save_model={precious}")
    assert (process.returncode, process.stderr) == (0, "")
    assert torch.load(precious, weights_only=True)["features.0.weight"].shape == (10, 1, 3, 3)


# --no-shuffle, --dry-run, datadir ------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", ["false", "true"])
def test_without_shuffling_every_epoch_has_the_same_batches(tmp_path, shuffle):
    """Seen by the losses of a network that does not move."""
    still = ("optimizer.lr=1e-30", "log_every_n_batches=1", f"data.shuffle={shuffle}", "report=false")
    process = train(tmp_path, *TINY, *still, "hydra.run.dir=run")
    assert (process.returncode, process.stderr) == (0, "")
    losses = re.findall(r"^loss: (\S+)", process.stdout, re.M)
    assert len(losses) == 20
    assert (losses[:10] == losses[10:]) == (shuffle == "false")


def test_what_was_shuffled_stays_so(mnist):
    folder, _ = mnist
    process = train(folder, "resume=run", "data.shuffle=false")
    assert process.returncode == 2
    assert process.stderr.startswith("error: data.shuffle: cannot be changed here")


def test_a_dry_run_takes_one_batch_of_each_kind_is_marked_and_saves_no_model_pt(tmp_path):
    typed = ("experiment=tutorial_mnist", *SHORT, "+trainer.fast_dev_run=true", "report=true", "hydra.run.dir=run")
    process = train(tmp_path, *typed)
    assert (process.returncode, process.stderr) == (0, "")
    found = results(tmp_path / "run")
    assert (found["status"], found["steps"], found["epochs"]) == ("completed", 1, 1)
    assert found["cut_short"] == "trainer.fast_dev_run=true"
    assert "cut short by trainer.fast_dev_run=true: ranked below whole runs" in process.stdout
    assert "model.pt is not written" in process.stdout
    assert not (tmp_path / "run/model.pt").exists()
    assert "<strong>Cut short</strong> by trainer.fast_dev_run=true" in (tmp_path / "run/report.html").read_text()
    assert "trainer.fast_dev_run=true" in train(tmp_path, "task=report", "runs=run").stdout


@pytest.mark.parametrize("place", [".", "raw", "MNIST/raw"])
def test_data_dir_takes_a_folder_with_the_four_packed_files_and_says_whose_they_are(tmp_path, place):
    folder = tmp_path / "here" / place
    folder.mkdir(parents=True)
    for part, count in (("train", 320), ("t10k", 40)):
        header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        labels = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + bytes(range(10)) * (count // 10)
        pixels = bytes(n % 251 for n in range(count * 784))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + pixels, 1))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    before = sorted(tmp_path.rglob("*"))
    typed = ("experiment=tutorial_mnist", "data_dir=here", "+trainer.fast_dev_run=true", "report=false")
    process = train(tmp_path, *typed, "hydra.run.dir=run")
    assert (process.returncode, process.stderr) == (0, "")
    found = results(tmp_path / "run")["data"]
    assert (found["train"] + found["val"], found["test"], found["stand_in_for"]) == (320, 40, "mnist")
    assert "not the official mnist, other images of its form" in process.stdout
    assert sorted((tmp_path / "here").rglob("*")) == [path for path in before if path != tmp_path / "here"]
