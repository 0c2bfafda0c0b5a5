"""Code of the user's own: `use=` and `_target_` at the command line, with every verb, and what it refuses."""

import json
import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import command
from helpers.command import figures, refusal, results, succeeds
from helpers.comparison import same_end, same_files
from helpers.forks import start, train, train_without_torch
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"
EXPERIMENT = """# @package _global_
defaults:
  - override /data: own
  - override /model: own
  - override /loss: own
data: {_target_: mine.dataset.gratings, count: 700}
model: {_target_: mine.network.Mixer, width: 16, depth: 1}
loss: {_target_: mine.mixup.MixupLoss}
callbacks:
  mixup: {_target_: mine.mixup.Mixup, alpha: 0.4}
  norms: {_target_: mine.callback.GradientNorms, every: 5}
"""
MINE = ("--config-dir", "my_configs", "experiment=gratings", "use=mine", "trainer.max_epochs=2", "report=false")
# A module whose import and whose functions leave a mark.
MARKING = """
import os
import subprocess
from os import system
from pathlib import Path
from subprocess import Popen
from torch import load, nn

Path("imported").touch()

def mark(*args, **kwargs):
    Path("called").touch()

class Net(nn.Linear):
    def __init__(self, classes, size, channels):
        super().__init__(1, 1)

class NoNet:
    def __init__(self):
        Path("called").touch()

_private = Net
instance = Net(1, 1, 1)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An outsider's: the examples as a package, and an experiment that names them."""
    shutil.copytree(EXAMPLES, tmp_path / "mine", ignore=shutil.ignore_patterns("__pycache__"))
    experiments = tmp_path / "my_configs/experiment"
    experiments.mkdir(parents=True)
    (experiments / "gratings.yaml").write_text(EXPERIMENT)
    return tmp_path


def test_every_verb_takes_own_code_and_every_printed_command_allows_it(folder: Path) -> None:
    out = succeeds(train(folder, *MINE, "hydra.run.dir=run"))
    assert "task=test checkpoint=run/checkpoints/best.ckpt use=mine" in out
    assert "resume=run trainer.max_epochs=4 use=mine" in out
    found = results(folder / "run")
    assert (found["data"]["name"], found["model"]["name"]) == ("gratings", "Mixer")
    assert len((folder / "run/gradient_norms.csv").read_text().splitlines()) > 2
    tested = succeeds(train(folder, "task=test", "checkpoint=run", "use=mine", "hydra.run.dir=test"))
    assert f"acc {found['metrics']['test/acc']:.4f}" in tested
    Image.fromarray(np.full((16, 16), 99, np.uint8)).save(folder / "one.png")
    assert "horizontal" in succeeds(train(folder, "task=predict", "checkpoint=run", "images=one.png", "use=mine"))
    exported = succeeds(train(folder, "task=export", "checkpoint=run", "format=safetensors", "use=mine"))
    assert "use=mine" in exported
    succeeds(train(folder, "resume=run", "use=mine", "trainer.max_epochs=3"))
    assert results(folder / "run")["epochs"] == 3
    succeeds(train(folder, "rerun=run", "use=[mine]", "hydra.run.dir=again"))
    succeeds(train(folder, "task=report", "runs=run"))
    assert "use=mine" in (folder / "run/report.html").read_text()


def test_a_loss_of_own_code_may_have_an_argument_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "weighted.py").write_text(
        "from torch import nn\nclass Weighted(nn.CrossEntropyLoss):\n    def __init__(self, weight):\n"
        "        super().__init__()\n        self.factor = weight\n"
        "    def forward(self, logits, labels):\n        return self.factor * super().forward(logits, labels)\n"
    )
    typed = ("data=shapes", "data.images=200", "trainer.max_epochs=1", "report=false", "use=weighted")
    for weight in (1.0, 0.0):
        loss = ("loss._target_=weighted.Weighted", f"loss.weight={weight}", f"hydra.run.dir=run{weight:g}")
        succeeds(train(tmp_path, *typed, *loss))
    assert results(tmp_path / "run0")["metrics"]["val/loss"] == 0 < results(tmp_path / "run1")["metrics"]["val/loss"]


def test_a_sweep_takes_own_code_and_the_configs_of_a_further_folder(folder: Path) -> None:
    out = succeeds(train(folder, "-m", *MINE, "model.width=8,16", "sweep.name=mine", "sweep.test_best=true"))
    assert "2 of 2 trials: 2 done" in out
    assert "could not be tested" not in out
    for number, width in ((0, 8), (1, 16)):
        config = (folder / f"outputs/sweeps/mine/{number}/config.yaml").read_text()
        assert f"width: {width}" in config
        assert "use:\n- mine" in config


def test_a_killed_run_of_own_code_ends_where_an_undisturbed_one_ends(folder: Path) -> None:
    typed = [*MINE, "scheduler._target_=torch.optim.lr_scheduler.OneCycleLR", "scheduler.max_lr=0.01",
             "checkpoint.every_n_steps=3", "data.count=2000"]  # fmt: skip
    succeeds(train(folder, *typed, "hydra.run.dir=whole"))
    last = folder / "cut/checkpoints/last.ckpt"
    process = start(folder, *typed, "hydra.run.dir=cut")
    assert command.wait_until(last.is_file, process), process.communicate()
    process.kill()
    process.communicate()
    assert torch.load(last, weights_only=True)["global_step"] < results(folder / "whole")["steps"]
    succeeds(train(folder, "resume=cut", "use=mine"))
    assert same_end(folder / "whole", folder / "cut")
    assert same_files(folder / "whole", folder / "cut")
    assert figures(folder / "cut") == figures(folder / "whole")


def test_what_own_code_made_is_refused_without_use_in_one_line_with_the_words_to_type(folder: Path) -> None:
    succeeds(train(folder, *MINE, "hydra.run.dir=run", "trainer.max_epochs=1"))
    for typed in (["resume=run"], ["rerun=run"], ["task=test", "checkpoint=run"], ["resume=run", "use=my_configs"]):
        assert "if you trust it, type " in (line := refusal(train(folder, *typed)))
        assert "use=mine as well" in line or "'use=[my_configs,mine]' as well" in line
    other = folder / "elsewhere"
    other.mkdir()
    refused = refusal(train(other, f"resume={folder}/run", "use=mine"))
    assert f"use=mine: no package or module of that name in {other}" in refused


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (("use=mine", "model._target_=mine.network.Mixer", "model.widht=3"), "model.widht: no such key"),
        (("use=mine", "model._target_=mine.network.Mixer", "model.patch=5"), "does not divide images of 16x16 (/"),
        (
            ("use=mine", "model._target_=mine.network.mlp", "model.width=3", "data=digits"),
            "cannot take images of 1x28x28",
        ),
        (("use=mine", "model._target_=mine.network.Nothing"), "there is no such class or function"),
        (("use=mine", "model._target_=mine.nothing.Net"), "cannot be imported: ModuleNotFoundError"),
        (("use=odd", "model._target_=odd.number"), "gave a int, must give a torch.nn.Module"),
        (("use=mine", "loss._target_=mine.dataset.gratings"), "must be a class that derives from torch.nn"),
        (("use=mine", "optimizer._target_=mine.network.Mixer"), "must be a class that derives from torch.optim"),
        (("use=odd", "data._target_=odd.number"), "gave a int, must give (images"),
        (("use=mine", "loss._target_=mine.mixup.MixupLoss", "loss.class_weights=balanced"), "takes no argument weight"),
        (("use=mine", "+callbacks.x._target_=mine.network.Mixer"), "must be a class that derives from lightning"),
        (("use=broken", "model._target_=broken.Net"), "SyntaxError"),
        (("use=raising", "model._target_=raising.Net"), "KeyError: 'here' ("),
    ],
)
def test_a_mistake_in_own_code_is_one_line_that_says_where(folder: Path, typed: tuple[str, ...], reason: str) -> None:
    (folder / "odd.py").write_text("def number():\n    return 3\n")
    (folder / "broken.py").write_text("def Net(:\n")
    (folder / "raising.py").write_text("{}['here']\n")
    data = () if any(line.startswith("data") for line in typed) else ("data=shapes", "data.size=16")
    assert reason in refusal(train(folder, *typed, *data, "data.images=200" if data else "seed=0"))
    assert not (folder / "outputs").exists() or not list(folder.glob("outputs/**/results.json"))


HOSTILE = [
    ("model._target_=marking.mark",),
    ("model._target_=os.system",),
    ("use=os", "model._target_=os.system"),
    ("use=builtins", "model._target_=builtins.eval"),
    ("use=subprocess", "model._target_=subprocess.Popen"),
    ("use=torch", "model._target_=torch.load"),
    ("use=torch.hub", "model._target_=torch.hub.load"),
    ("use=importlib", "model._target_=importlib.import_module"),
    ("use=[marking,os]", "model._target_=os.system"),
    ("use=pickle", "model._target_=pickle.loads"),
    ("use=numpy", "data._target_=numpy.load"),
    ("use=lightning", "+callbacks.x._target_=lightning.pytorch.callbacks.ModelCheckpoint"),
    ("use=smallvision", "model._target_=smallvision.cli.main"),
    ("use=marking.", "model._target_=marking.mark"),
    ("use=.marking", "model._target_=marking.mark"),
    ("use=_marking", "model._target_=_marking.mark"),
    ("use=marking/../x", "model._target_=marking.mark"),
    ("use=null", "model._target_=marking.mark"),
    ("use={marking:1}", "model._target_=marking.mark"),
    ("use=3", "model._target_=marking.mark"),
    ("use='${data.name}'", "data=own", "data.name=marking", "data._target_=marking.mark"),
    ("use=mark", "model._target_=marking.mark"),
    ("use=marking.sub", "model._target_=marking.mark"),
    ("use=marking", "model._target_=marking2.mark"),
    ("use=marking", "model._target_=_marking.mark"),
    ("use=marking", "model._target_=marking._private"),
    ("use=marking", "hydra.launcher._target_=marking.mark"),
    ("module._target_=marking.mark",),
    ("use=os", "module._target_=os.system"),
    ("use=lightning", "module._target_=lightning.pytorch.LightningModule"),
    ("module._target_=smallvision.training.classifier.LossAndAccuracy",),
]
IMPORTED = [
    ("use=marking", "model._target_=marking.system"),
    ("use=marking", "model._target_=marking.Popen"),
    ("use=marking", "model._target_=marking.load"),
    ("use=marking", "model._target_=marking.os.system"),
    ("use=marking", "model._target_=marking.subprocess.Popen"),
    ("use=marking", "model._target_=marking.instance"),
    ("use=marking", "model._target_=marking.NoNet"),
    ("use=marking", "loss._target_=marking.mark"),
    ("use=marking", "optimizer._target_=marking.mark"),
    ("use=marking", "logger._target_=marking.mark"),
    ("use=marking", "scheduler._target_=marking.mark"),
    ("use=marking", "+callbacks.x._target_=marking.mark"),
    ("use=marking", "module._target_=marking.mark"),
    ("use=marking", "module._target_=marking.Net"),
    ("use=marking", "module._target_=marking.system"),
]


@pytest.mark.parametrize("typed", HOSTILE, ids=" ".join)
def test_what_is_no_own_code_is_refused_before_anything_is_imported(tmp_path: Path, typed: tuple[str, ...]) -> None:
    (tmp_path / "marking.py").write_text(MARKING)
    refusal(train_without_torch(tmp_path, "data=shapes" if "data=own" not in typed else "seed=0", *typed))
    assert {file.name for file in tmp_path.iterdir()} == {"marking.py"}


@pytest.mark.parametrize("typed", IMPORTED, ids=" ".join)
def test_what_a_package_only_imported_or_is_of_another_kind_is_not_called(
    tmp_path: Path, typed: tuple[str, ...]
) -> None:
    (tmp_path / "marking.py").write_text(MARKING)
    refusal(train(tmp_path, "data=shapes", "data.images=100", *typed))
    assert not (tmp_path / "called").exists()


def test_a_file_never_extends_the_list(tmp_path: Path) -> None:
    (tmp_path / "marking.py").write_text(MARKING)
    experiments = tmp_path / "theirs/experiment"
    experiments.mkdir(parents=True)
    (experiments / "x.yaml").write_text("# @package _global_\nuse: marking\nmodel: {_target_: marking.mark}\n")
    typed = ("--config-dir", "theirs", "experiment=x", "data=shapes")
    assert "stands in a file outside of this project" in refusal(train_without_torch(tmp_path, *typed))
    succeeds(train(tmp_path, "data=shapes", "data.images=200", "trainer.max_epochs=1", "report=false",
                   "hydra.run.dir=run"))  # fmt: skip
    checkpoint = tmp_path / "run/checkpoints/best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    for use, section in product((None, [], "marking", ["marking"], ["os"], {"marking": 1}, 3), ("model", "module")):
        content["smallvision"]["config"] |= {"use": use, section: {"name": "x", "_target_": "marking.mark"}}
        torch.save(content, tmp_path / "hostile.ckpt")
        for task in (["task=test"], ["task=predict", "images=run"], ["task=export", "format=safetensors"]):
            refusal(train(tmp_path, *task, "checkpoint=hostile.ckpt"))
    for use in ("marking", ["marking"], [["marking"]], "os"):
        config = json.loads(json.dumps(content["smallvision"]["config"])) | {"use": use, "resume": None, "rerun": None}
        (tmp_path / "run/config.yaml").write_text(json.dumps(config))
        refusal(train(tmp_path, "resume=run"))
        refusal(train(tmp_path, "rerun=run"))
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "called").exists()
