"""A LightningModule of the user's own: `module._target_` at the command line, with every verb."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import command
from helpers.command import figures, refusal, results, succeeds
from helpers.comparison import same_files
from helpers.forks import start, train

EXAMPLE = Path(__file__).parents[1] / "examples/autoencoder.py"
AUTOENCODER = (
    "use=autoencoder", "module._target_=autoencoder.Autoencoder", "module.width=4", "module.monitor=val/psnr",
    "module.mode=max", "data=shapes", "data.images=300", "data.test_images=60", "trainer.max_epochs=2",
)  # fmt: skip
# Two optimizers and schedules by hand, dropout, random numbers in every step, sums of torchmetrics and of Lightning.
GAN = """
import lightning.pytorch as pl
import torch
from torch import nn
from torch.nn.functional import softplus
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR
from torchmetrics import MeanMetric
from torchmetrics.classification import BinaryAUROC


class Gan(pl.LightningModule):
    def __init__(self, channels, size, keep=None):
        super().__init__()
        self.save_hyperparameters()
        self.automatic_optimization = False
        self.images = channels, *size
        self.makes = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, channels * size[0] ** 2))
        self.judges = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] ** 2, 1))
        self.mean, self.auroc = MeanMetric(), BinaryAUROC()

    def made(self, count):
        return self.makes(torch.randn(count, 8, device=self.device)).view(count, *self.images)

    def training_step(self, batch, batch_idx):
        real, (first, second) = batch[0] / 255, self.optimizers()
        made = self.made(len(real))
        judged = torch.cat([self.judges(real), self.judges(made.detach())]).flatten()
        is_real = torch.arange(len(judged)) < len(real)
        second.zero_grad()
        self.manual_backward(softplus(torch.where(is_real, -judged, judged)).mean())
        second.step()
        loss = softplus(-self.judges(made)).mean()
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        for scheduler in self.lr_schedulers():
            scheduler.step()
        self.mean(judged.detach())
        self.auroc(judged.detach().sigmoid(), is_real.long())
        epoch = {"on_step": False, "on_epoch": True}
        self.log_dict({"judged": self.mean, "auroc": self.auroc}, **epoch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        self.log("largest", loss, reduce_fx="max", **epoch)
        self.log("all", loss, reduce_fx="sum", **epoch)

    def validation_step(self, batch, batch_idx):
        self.log("val_gap", (self.judges(batch[0] / 255).mean() - self.judges(self.made(20)).mean()).abs())

    def configure_optimizers(self):
        first = torch.optim.Adam(self.makes.parameters(), 1e-3)
        second = torch.optim.SGD(self.judges.parameters(), 1e-2, momentum=0.9)
        return [first, second], [LambdaLR(first, lambda step: 0.99**step), ExponentialLR(second, 0.99)]
"""
# Work in hooks that Lightning calls after those of callbacks, a schedule that follows validation, and metrics that are
# logged in some batches and epochs only.
TEACHER = """
import lightning.pytorch as pl
import torch
from torch import nn
from torchmetrics import MeanMetric


class Teacher(pl.LightningModule):
    def __init__(self, channels, size, classes):
        super().__init__()
        self.student = nn.Sequential(nn.Flatten(), nn.Linear(channels * size[0] * size[1], classes))
        self.register_buffer("teacher", torch.zeros(classes, channels * size[0] * size[1]))
        self.register_buffer("seen", torch.tensor(0.0))
        self.register_buffer("validations", torch.tensor(0.0))
        self.mean = MeanMetric()

    def training_step(self, batch, batch_idx):
        loss = nn.functional.cross_entropy(self.student(batch[0] / 255), batch[1])
        self.mean(loss.detach())
        self.log("mean", self.mean, on_step=False, on_epoch=True)
        self.log("step", 7.0)
        if batch_idx < 2:
            self.log("early", loss, on_step=False, on_epoch=True)
            self.log("early_max", loss, on_step=False, on_epoch=True, reduce_fx="max")
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.seen += 1
        self.teacher.lerp_(self.student[1].weight.detach(), 0.1)
        self.log("batches", self.seen, on_step=True, on_epoch=False)

    def validation_step(self, batch, batch_idx):
        logits = (batch[0] / 255).flatten(1) @ self.teacher.T
        self.log("val/loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val/seen", self.seen + 1000 * self.validations)
        if self.current_epoch % 2 == 0:
            self.log("val/seldom", 10.0 - self.current_epoch)
        self.log("val/nan", float("nan"))

    def on_validation_end(self):
        self.validations += 1

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)
        schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, threshold=10.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val/loss"}}


class Late(Teacher):
    def setup(self, stage):
        self.late = nn.Linear(1, 1)


class Lazy(Teacher):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.late = nn.LazyLinear(1)


class Looks(Teacher):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.rates = [rate.item() for rate in torch.linspace(0, 1, 3)]

    test_step = Teacher.validation_step
"""
KILLED = (
    "data=shapes", "data.images=3000", "data.test_images=20", "report=false",
    "trainer.max_epochs=6", "checkpoint.every_n_steps=6", "+trainer.val_check_interval=0.5", "data.batch_size=32",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(EXAMPLE, tmp_path)
    (tmp_path / "gan.py").write_text(GAN)
    (tmp_path / "teacher.py").write_text(TEACHER)
    return tmp_path


def test_its_run_has_its_own_metrics_and_its_best_epoch_by_the_monitored_one(folder: Path) -> None:
    out = succeeds(train(folder, *AUTOENCODER, "trainer.max_epochs=3", "hydra.run.dir=run"))
    lines = (folder / "run/metrics.csv").read_text().splitlines()
    assert lines[0] == "epoch,step,lr,train/loss,val/loss,val/psnr"
    ratios = [float(line.split(",")[-1]) for line in lines[1:]]
    found = results(folder / "run")
    assert found["metrics"]["val/psnr"] == max(ratios)
    assert found["best_epoch"] == 1 + ratios.index(max(ratios))
    assert (found["model"]["name"], found["optimizer"]) == ("Autoencoder", "own")
    assert f"test/psnr {found['metrics']['test/psnr']:.4g}" in out
    assert found["metrics"]["test/acc"] is None
    assert "no confusion matrix, no task=predict, export or serve" in out
    page = (folder / "run/report.html").read_text()
    assert "there is no confusion matrix" in page
    assert all(f">{title}</h3>" in page for title in ("Loss of each step", "Loss of each epoch", "val/psnr"))
    assert "task=predict checkpoint" not in page
    assert "<th>module._target_</th>" in page
    assert "<th>optimizer.lr</th>" not in page
    best = torch.load(folder / "run/checkpoints/best.ckpt", weights_only=True)
    assert best["epoch"] + 1 == found["best_epoch"]
    assert {name.split(".")[0] for name in best["state_dict"]} == {"encoder", "decoder"}


def test_it_is_tested_continued_repeated_and_told_apart(folder: Path) -> None:
    succeeds(train(folder, *AUTOENCODER, "hydra.run.dir=run"))
    test = ("task=test", "checkpoint=run", "use=autoencoder", "hydra.run.dir=tested")
    assert "test/psnr" in succeeds(train(folder, *test))
    assert results(folder / "tested")["metrics"]["test/psnr"] == results(folder / "run")["metrics"]["test/psnr"]
    succeeds(train(folder, "rerun=run", "use=autoencoder", "hydra.run.dir=again"))
    assert figures(folder / "again") == figures(folder / "run")
    succeeds(train(folder, "resume=run", "use=autoencoder", "trainer.max_epochs=3"))
    succeeds(train(folder, *AUTOENCODER, "trainer.max_epochs=3", "hydra.run.dir=whole"))
    assert figures(folder / "run") == figures(folder / "whole")
    for task in (["task=predict", "images=autoencoder.py"], ["task=export", "format=safetensors"], ["task=serve"]):
        error = refusal(train(folder, *task, "checkpoint=run", "use=autoencoder"))
        assert "of autoencoder.Autoencoder, which has no classes to predict" in error
    assert "use=autoencoder as well" in refusal(train(folder, "task=test", "checkpoint=run"))


@pytest.mark.parametrize("module", ["gan.Gan", "teacher.Teacher"])
def test_a_run_that_is_killed_within_an_epoch_goes_on_exactly(folder: Path, module: str) -> None:
    typed = [*KILLED, f"use={module.partition('.')[0]}", f"module._target_={module}"]
    out = succeeds(train(folder, *typed, "hydra.run.dir=whole"))
    assert f"not tested: {module} has no test_step" in out
    last = folder / "cut/checkpoints/last.ckpt"
    process = start(folder, *typed, "hydra.run.dir=cut")
    assert command.wait_until(last.is_file, process), process.communicate()
    process.kill()
    process.communicate()
    assert torch.load(last, weights_only=True)["smallvision"]["position"]["batch"] > 0
    succeeds(train(folder, "resume=cut", typed[-2]))
    assert (folder / "cut/metrics.csv").read_text() == (folder / "whole/metrics.csv").read_text()
    assert same_files(folder / "whole", folder / "cut")


TAUGHT = ("use=teacher", "module._target_=teacher.Teacher", "data=shapes", "data.images=200", "data.test_images=20")


def test_a_finished_run_goes_on_as_if_it_had_never_ended(folder: Path) -> None:
    """Also its ReduceLROnPlateau, which looks at an epoch once its checkpoint was saved."""
    plateau = "scheduler._target_=torch.optim.lr_scheduler.ReduceLROnPlateau"
    ours = ("data=shapes", "data.images=200", plateau, "scheduler.patience=0", "scheduler.threshold=10.0")
    for typed, use in ((TAUGHT, ["use=teacher"]), (ours, [])):
        for epochs, run in ((2, "run"), (4, "whole")):
            succeeds(train(folder, *typed, f"trainer.max_epochs={epochs}", "report=false", f"hydra.run.dir={run}"))
        succeeds(train(folder, "resume=run", "trainer.max_epochs=4", *use))
        assert (folder / "run/metrics.csv").read_text() == (folder / "whole/metrics.csv").read_text()
        shutil.rmtree(folder / "run")
        shutil.rmtree(folder / "whole")


def test_a_metric_counts_in_the_epochs_that_measured_it(folder: Path) -> None:
    typed = ("module.monitor=val/seldom", "module.mode=min", "trainer.max_epochs=4", "hydra.run.dir=run")
    out = succeeds(train(folder, *TAUGHT, *typed))
    assert out.index("val/seldom") < out.index("early")
    rows = list(csv.DictReader((folder / "run/metrics.csv").open()))
    assert [row["val/seldom"] for row in rows] == ["10.0", "", "8.0", ""]
    assert [row["step"] for row in rows] == ["3", "6", "9", "12"]
    found = json.loads((folder / "run/results.json").read_text(), parse_constant=pytest.fail)
    assert (found["best_epoch"], found["metrics"]["val/nan"]) == (3, None)


def test_a_constructor_that_looks_at_numbers_can_be_loaded(folder: Path) -> None:
    succeeds(train(folder, *TAUGHT, "module._target_=teacher.Looks", "trainer.max_epochs=1", "hydra.run.dir=run"))
    succeeds(train(folder, "task=test", "checkpoint=run", "use=teacher"))


@pytest.mark.parametrize(("kind", "reason"), [("Late", "made late.bias in setup"), ("Lazy", "has lazy layers")])
def test_layers_that_no_checkpoint_would_fit_are_refused(folder: Path, kind: str, reason: str) -> None:
    assert reason in refusal(train(folder, *TAUGHT, f"module._target_=teacher.{kind}"))


def test_a_sweep_ranks_by_a_metric_of_its_own(folder: Path) -> None:
    out = succeeds(train(folder, "-m", *AUTOENCODER, "module.code=1,32", "sweep.name=code"))
    assert "by val/psnr" in out
    assert "best: trial 1, val/psnr" in out
    lines = (folder / "outputs/sweeps/code/leaderboard.csv").read_text().splitlines()
    assert lines[0].startswith("rank,trial,state,val/psnr,")
    assert [line.split(",")[1] for line in lines[1:]] == ["1", "0"]


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        (["optimizer.lr=0.1"], "optimizer.lr: has no meaning for autoencoder.Autoencoder, which has a network,"),
        (["model=lenet5"], "model: has no meaning for"),
        (["data.normalisation.whiten=2"], "data.normalisation.whiten: has no meaning for"),
        (["task=bench"], "task=bench: measures the project's own training"),
        (["module.widht=3"], "module.widht: no such key. Did you mean 'width'?"),
        (["module.monitor=val/psn"], "val/psn: the module logs no such metric. Did you mean 'val/psnr'?"),
        (["module.mode=highest"], "module.mode=highest: must be"),
        (["module.monitor=null", "early_stopping.patience=1"], "early_stopping.patience: needs a metric"),
        (["-m", "module.monitor=null", "module.code=1,2"], "sweep.metric: which of the module's?"),
        (["-m", "sweep.metric=val/ratio", "module.code=1,2"], "type sweep.direction=maximize or"),
        (["-m", "sweep.metric=test/psnr", "module.code=1,2"], "a sweep ranks its trials by validation images"),
        (["-m", "sweep.test_best=true", "module.code=1,2"], "a LightningModule of your own has no test/acc"),
        (["use=gan", "module._target_=gan.nn"], "gan.nn: not a class or function"),
        (["use=gan", "module._target_=gan.softplus"], "not a class or function that gan itself defines"),
        (["use=null"], "not allowed here; a module is smallvision.training.classifier.Classifier, or of your own code"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_for_it_is_refused_in_one_line(folder: Path, typed: list[str], reason: str) -> None:
    overrides = [one for one in AUTOENCODER if one.split("=")[0] not in {two.split("=")[0] for two in typed}]
    flags = [one for one in typed if one == "-m"]
    process = train(folder, *flags, *overrides, *(one for one in typed if one != "-m"))
    assert process.returncode in (1, 2)
    assert reason in process.stderr.splitlines()[-1]


def test_what_a_checkpoint_could_not_give_back_ends_the_run_at_its_first_save(folder: Path) -> None:
    (folder / "kept.py").write_text(
        "import numpy as np\nfrom gan import Gan\nclass Kept(Gan):\n"
        "    def on_save_checkpoint(self, checkpoint):\n        checkpoint['mine'] = np.float64(1)\n"
    )
    typed = [*KILLED, "trainer.max_epochs=1", "use=[kept,gan]", "module._target_=kept.Kept", "hydra.run.dir=run"]
    error = refusal(train(folder, *typed))
    assert "more than plain data" in error
    assert "a checkpoint keeps numbers, text, lists, dicts and tensors alone" in error
    assert json.loads((folder / "run/results.json").read_text())["status"] == "failed"
    assert not [*(folder / "run").glob("checkpoints/*.ckpt")]


def test_a_network_of_the_project_s_own_may_be_judged_by_another_metric(folder: Path) -> None:
    typed = ("data=shapes", "data.images=300", "trainer.max_epochs=3", "report=false", "hydra.run.dir=run")
    assert "no such metric. Did you mean 'val/loss'?" in refusal(train(folder, *typed, "module.monitor=val/los"))
    succeeds(train(folder, *typed, "module.monitor=val/loss"))
    losses = [float(line.split(",")[5]) for line in (folder / "run/metrics.csv").read_text().splitlines()[1:]]
    assert results(folder / "run")["metrics"]["val/loss"] == min(losses)
