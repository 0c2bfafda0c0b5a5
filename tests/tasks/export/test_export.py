"""A checkpoint becomes a file for use elsewhere, verified, with a card that describes it."""

import errno
import json
import os
import re
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.command import TINY
from helpers.configs import resolved
from helpers.forks import train
from omegaconf import OmegaConf
from safetensors import safe_open

from smallvision.config import resolve as configs
from smallvision.core import run_dir as files
from smallvision.core.errors import UserError
from smallvision.core.run_dir import RunDir
from smallvision.tasks import export
from smallvision.tasks.export import find_images
from smallvision.tasks.export.safetensors_file import load
from smallvision.training.checkpoint import read_checkpoint
from smallvision.training.model_spec import ModelSpec

CHECKPOINT = "checkpoint=run/checkpoints/best.ckpt"
FILES = {"onnx": "model.onnx", "torch_export": "model.pt2", "safetensors": "model.safetensors"}


@pytest.fixture(scope="module")
def airbench(tmp_path_factory):
    """A run with everything before and around its network, in bf16, exported in all formats one by one."""
    folder = tmp_path_factory.mktemp("airbench")
    chosen = [
        "model=airbench", "model.widths=[8,8]", "data.size=12", "data.channels=3", "optimizer=muon",
        "data.normalisation.whiten=2", "tta.flip=true", "tta.shift=1", "device.precision=bf16-mixed",
        "data.augmentation.flip=true", "trainer.max_epochs=1", "report=false",
    ]  # fmt: skip
    trained = train(folder, *TINY, *chosen, "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    processes = {name: train(folder, "task=export", CHECKPOINT, f"format={name}") for name in FILES}
    return folder, processes


@pytest.fixture
def run(airbench, tmp_path):
    """A folder with a copy of that run, nothing exported yet."""
    shutil.copytree(airbench[0] / "run", tmp_path / "run", ignore=shutil.ignore_patterns("model*", "exp*"))
    return tmp_path / "run"


def card(folder):
    return (folder / "model_card.md").read_text()


def exported(run: Path, *typed: str) -> str:
    """The identity of the network that is exported, of the run's best checkpoint where no other is typed."""
    checkpoint = f"checkpoint={run / 'checkpoints/best.ckpt'}"
    config = resolved("task=export", "format=safetensors", checkpoint, *typed)
    export.run(config, RunDir(run), read_checkpoint(config.checkpoint_file))
    (identity,) = {entry["of"] for entry in json.loads((run / "exports.json").read_text())}
    return identity


def test_a_network_with_whitening_and_views_trained_in_bf16_is_exported_and_verified_in_every_format(airbench):
    folder, processes = airbench
    for name, process in processes.items():
        assert (process.returncode, process.stderr) == (0, "")
        assert (folder / "run" / FILES[name]).is_file()
        found = re.search(r"largest difference (\S+) \(1e-05 allowed\), 200 of 200 predicted", process.stdout)
        assert found
        assert float(found[1]) <= 1e-5
        assert f"file       run/{FILES[name]}, " in process.stdout
        assert "compared   on 200 test images of shapes" in process.stdout
        assert "in batches of 1, 7, 192 images" in process.stdout
        assert "how to use run/model_card.md" in process.stdout
        assert "Warning" not in process.stdout
    exports = json.loads((folder / "run/exports.json").read_text())
    assert [entry["format"] for entry in exports] == [*FILES]
    assert max(entry["difference"] for entry in exports) <= 1e-6
    missing = {name: re.findall(r"also .*format=(\w+)", process.stdout) for name, process in processes.items()}
    assert missing == {"onnx": ["torch_export", "safetensors"], "torch_export": ["safetensors"], "safetensors": []}


def test_the_card_describes_the_network_its_data_its_accuracy_and_the_files(airbench):
    folder, _ = airbench
    page, results = card(folder / "run"), json.loads((folder / "run/results.json").read_text())
    assert page.startswith("# airbench, trained on shapes\n")
    assert "uint8, N x 3 x 12 x 12" in page
    assert "6 views" in page
    assert "| 3 | triangle |" in page or re.search(r"\| 3 \| \w+", page)
    assert f"fingerprint: {results['data']['fingerprint']}" in page
    accuracy = results["metrics"]["test/acc"]
    assert re.search(rf"\| test \| {accuracy:.4f} \| 0\.\d{{4}} to 0\.\d{{4}} \| 200 \|", page)
    assert re.search(r"\| validation \| 0\.\d{4} \| .* \| 60 \|", page)
    assert "optimizer: muon, lr" in page
    assert "augmentation: flip True" in page
    for file in FILES.values():
        assert re.search(rf"\| `{file}` \| [\d,]+ bytes \| .* \| 200 of 200 \| 200 test images", page)
    assert "STAND-IN" not in page
    assert "not calibrated" in page


def test_the_lines_of_python_on_the_card_run(airbench, monkeypatch, capsys):
    folder, _ = airbench
    monkeypatch.chdir(folder / "run")
    blocks = re.findall(r"```python\n(.*?)\n```", card(folder / "run"), re.DOTALL)
    assert len(blocks) == 3
    for code in blocks:
        assert len(code.splitlines()) == 5
        exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_another_export_replaces_the_first_and_other_views_make_another_network(airbench, run):
    shutil.copy(airbench[0] / "run/model.onnx", run)
    shutil.copy(airbench[0] / "run/exports.json", run)
    first = exported(run)
    assert "`model.onnx` |" in card(run)
    assert exported(run, "tta.flip=false", "tta.shift=0") != first
    assert "`model.onnx` |" not in card(run)
    assert "> `model.onnx` is here as well, but is of another network" in card(run)
    assert "Measured with other test-time views" in card(run)
    assert not list(run.glob(".*.part"))


def test_a_checkpoint_outside_of_a_run_is_exported_next_to_it_and_its_accuracy_is_unknown(airbench, tmp_path):
    shutil.copy(airbench[0] / "run/checkpoints/best.ckpt", tmp_path / "elsewhere.ckpt")
    exported(tmp_path, f"checkpoint={tmp_path / 'elsewhere.ckpt'}")
    written = {"elsewhere.ckpt", "model.safetensors", "model_card.md", "exports.json"}
    assert {file.name for file in tmp_path.iterdir()} == written
    assert "Unknown: the checkpoint is not the best.ckpt of a run" in card(tmp_path)
    assert "Not tested on any test images" in card(tmp_path)


def test_the_directory_may_be_typed_and_is_refused_where_it_cannot_be_made(run):
    (run.parent / "file").write_text("")
    typed = ["task=export", CHECKPOINT, "format=safetensors"]
    process = train(run.parent, *typed, "hydra.run.dir=new/place")
    assert (process.returncode, process.stderr) == (0, "")
    assert (run.parent / "new/place/model.safetensors").is_file()
    process = train(run.parent, *typed, "hydra.run.dir=file/place")
    assert process.returncode == 2
    assert process.stderr == "error: hydra.run.dir=file/place: cannot be made: Not a directory; choose another\n"


def test_a_directory_that_may_not_be_written_is_refused_with_the_way_out(run, monkeypatch):
    checkpoint = read_checkpoint(run / "checkpoints/best.ckpt")
    config = resolved("task=export", "format=safetensors", f"checkpoint={checkpoint.path}")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(UserError, match=r"run: cannot be written; hydra\.run\.dir=DIRECTORY chooses another"):
        export.run(config, RunDir(run), checkpoint)
    monkeypatch.undo()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.Path, "touch", full)
    with pytest.raises(UserError, match=r"safetensors: cannot be written: No space left .*hydra\.run\.dir=DIR"):
        export.run(config, RunDir(run), checkpoint)


def test_a_package_that_is_missing_is_named_before_the_checkpoint_is_opened(run, monkeypatch):
    monkeypatch.setattr(configs, "find_spec", lambda name: None)
    (run / "checkpoints/best.ckpt").write_text("not even opened")
    checkpoint = f"checkpoint={run / 'checkpoints/best.ckpt'}"
    with pytest.raises(UserError, match=r"^format=onnx: needs packages: pip install onnx onnxscript onnxruntime$"):
        resolved("task=export", checkpoint)
    with pytest.raises(UserError, match=r"^format=safetensors: needs a package: pip install safetensors$"):
        resolved("task=export", checkpoint, "format=safetensors")
    with pytest.raises(UserError, match="not a checkpoint"):  # torch itself is all that it needs
        resolved("task=export", checkpoint, "format=torch_export")


def test_training_on_a_stand_in_is_named_on_the_screen_and_the_card(tmp_path):
    trained = train(tmp_path, "model=linear", "data=mnist", "trainer.max_epochs=1", "report=false", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    process = train(tmp_path, "task=export", CHECKPOINT, "format=safetensors")
    assert (process.returncode, process.stderr) == (0, "")
    assert "STAND-IN: trained on digits, not on mnist" in process.stdout
    assert "test images of digits, a stand-in for mnist" in process.stdout
    lines = card(tmp_path / "run").splitlines()
    assert lines[2].startswith("> **STAND-IN: this network never saw mnist.**")
    caution = "was not compared on test images of the chosen data: these images are not mnist"
    assert f"> `model.safetensors` {caution}" in card(tmp_path / "run")


def test_missing_data_are_replaced_by_random_images_unless_they_were_typed(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 4
    images = rng.integers(0, 256, (200, 8, 8), dtype=np.uint8)
    names = np.array(["<b>bold</b>", "a|b", "[link](x)", "`code`"])
    np.savez(
        tmp_path / "mine.npz",
        x_train=images, y_train=labels, x_test=images, y_test=labels, classes=names,
    )  # fmt: skip
    chosen = ["data=arrays", "data.path=mine.npz", "data.val_size=40", "model=linear", "trainer.max_epochs=1"]
    trained = train(tmp_path, *chosen, "report=false", "hydra.run.dir=run")
    assert trained.returncode == 0, trained.stderr
    (tmp_path / "mine.npz").unlink()
    typed = ["task=export", CHECKPOINT, "format=safetensors"]
    process = train(tmp_path, *typed)
    assert (process.returncode, process.stderr) == (0, "")
    assert "compared   on 1,000 random images" in process.stdout
    assert "note       the images of arrays are missing (" in process.stdout
    page = card(tmp_path / "run")
    assert "> `model.safetensors` was not compared on test images of the chosen data: the images of arrays" in page
    assert r"| 0 | &lt;b&gt;bold&lt;/b&gt; |" in page
    assert r"| 1 | a\|b |" in page
    assert r"| 2 | \[link\]\(x\) |" in page
    refused = train(tmp_path, *typed, "data.path=other.npz")
    assert refused.returncode == 2
    assert refused.stderr == "error: other.npz: no such file\n"


def test_hostile_text_in_a_checkpoint_stays_text_on_the_card(run, capsys):
    file = run / "checkpoints/best.ckpt"
    saved = torch.load(file, weights_only=True)
    saved["smallvision"]["data"] |= {"source": "\x1b[2J<script>alert(1)</script>\n# head", "remark": "|x|`y`"}
    torch.save(saved, file)
    exported(run)
    assert "\x1b" not in capsys.readouterr().out + card(run)
    assert "<script>" not in card(run)
    assert "\n# head" not in card(run)
    assert r"remark: \|x\|\`y\`" in card(run)


def test_other_formats_networks_and_data_are_refused(run):
    for typed, line in (
        (["format=exe"], "error: format=exe: must be one of onnx, torch_export, safetensors\n"),
        (["model=linear"], "error: model: cannot be changed here: the checkpoint fixes it\n"),
        (
            ["data.size=20"],
            "error: data=shapes: images of 3x20x20 in 10 classes; the checkpoint is for 3x12x12 in 10\n",
        ),
    ):  # fmt: skip
        process = train(run.parent, "task=export", CHECKPOINT, *typed)
        assert (process.returncode, process.stderr) == (2, line)
    assert not list(run.glob("model*"))
    assert yaml.safe_load((run / "config.yaml").read_text())["task"] == "fit"


def test_a_file_of_weights_alone_gives_what_the_checkpoint_gives(airbench):
    folder, _ = airbench
    predictor = load(folder / "run/model.safetensors")
    assert predictor.spec.tta == {"flip": True, "shift": 1}
    saved, weights = read_checkpoint(folder / "run/checkpoints/best.ckpt").state_dict, predictor.state_dict()
    assert weights.keys() == saved.keys()
    for name, tensor in saved.items():
        assert torch.equal(weights[name], tensor)
    with safe_open(folder / "run/model.safetensors", "pt") as opened:
        config = json.loads(opened.metadata()["config"])
    assert config == yaml.safe_load((folder / "run/config.yaml").read_text())


def test_hydra_leaves_nothing_of_its_own(airbench):
    folder, _ = airbench
    written = {*FILES.values(), "model_card.md", "exports.json"}
    of_the_run = {"config.yaml", "overrides.yaml", "environment.json", "results.json", "metrics.csv"}
    of_the_run |= {"checkpoints", "train.log", "steps.npy"}
    assert {file.name for file in (folder / "run").iterdir() if file.name[0] != "."} == written | of_the_run
    assert OmegaConf.load(folder / "run/config.yaml").task == "fit"


# What it is compared on ------------------------------------------------------------------------------------

SHAPES = ("data=shapes", "data.images=60", "data.test_images=40", "data.size=12", "data.val_size=0")


def spec(*shape: int, classes: int = 10) -> ModelSpec:
    channels, height, width = shape
    return ModelSpec({}, (channels, height, width), ["x"] * classes, [0.5] * channels, [0.5] * channels)


def test_test_images_are_used_where_there_are_any():
    found = find_images(resolved(*SHAPES), spec(1, 12, 12), chosen=True)
    assert found.images.shape == (40, 1, 12, 12)
    assert (found.description, found.caution) == ("40 test images of shapes", None)


def test_training_images_are_used_where_there_are_no_test_images():
    found = find_images(resolved(*SHAPES, "data.test_images=0"), spec(1, 12, 12), chosen=True)
    assert found.description == "60 training images of shapes"


def test_a_stand_in_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(urllib.request, "_opener", None)  # keeps the proxies of its first use, for all tests after it
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    typed = ("data=mnist", f"data_dir={tmp_path}")
    found = find_images(resolved(*typed, "data.offline=stand_in"), spec(1, 28, 28), chosen=False)
    assert found.description == f"{len(found.images):,} test images of digits, a stand-in for mnist"
    assert found.caution is not None
    assert found.caution.startswith("these images are not mnist (stand-in for mnist")
    with pytest.raises(UserError, match="data=mnist: not found"):
        find_images(resolved(*typed, "data.offline=error"), spec(1, 28, 28), chosen=True)


def test_random_images_are_used_where_the_data_cannot_be_read_unless_the_user_chose_them(tmp_path):
    (tmp_path / "x.npz").write_text("not an archive")
    config = resolved("data=arrays", f"data.path={tmp_path / 'x.npz'}")
    found = find_images(config, spec(1, 12, 12), chosen=False)
    assert found.images.shape == (1000, 1, 12, 12)
    assert found.images.dtype == torch.uint8
    assert found.description == "1,000 random images"
    assert found.caution is not None
    assert found.caution.startswith("the images of arrays are missing (")
    assert torch.equal(found.images, find_images(config, spec(1, 12, 12), chosen=False).images)
    assert len(find_images(config, spec(3, 1024, 1024), chosen=False).images) == 16
    with pytest.raises(UserError, match=r"x\.npz"):
        find_images(config, spec(1, 12, 12), chosen=True)


def test_chosen_data_of_another_shape_are_refused():
    with pytest.raises(UserError, match="images of 1x12x12 in 10 classes; the checkpoint is for 3x8x8 in 2"):
        find_images(resolved(*SHAPES), spec(3, 8, 8, classes=2), chosen=True)
