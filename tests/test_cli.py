"""The real command line: what is wrong is refused in one line, early, and leaves nothing behind."""

import os
import pickle
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers.forks import train, train_without_torch

from smallvision import __version__, cli
from smallvision.config.compose import compose
from smallvision.config.resolve import resolve_config
from smallvision.core.errors import Interrupted, UserError
from smallvision.core.run_dir import RunDir

ROOT = Path(__file__).parents[1]
TRAIN = ROOT / "train.py"
SMALL = ("data=shapes", "data.images=20", "data.test_images=10", "data.val_size=4")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """The folder that the command is run in."""
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def run(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """``train.py`` with these arguments, where importing torch is an error with a traceback."""
    return train_without_torch(work, *arguments, env={"CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"})


def assert_refused(done: subprocess.CompletedProcess[str], work: Path, *words: str) -> None:
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout, len(lines)) == (2, "", 1), done.stderr
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]
    assert not (work / "outputs").exists()


def test_the_guard_against_torch_works(work: Path) -> None:
    done = run(work, *SMALL)
    assert done.returncode == 1
    assert "was imported" in done.stderr


REFUSED: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    # an unknown choice, with the nearest one
    (("optimizer=adm",), ("optimizer=adm", "'adam'")),
    (("model=cifr10",), ("model=cifr10", "'cifar10'")),
    (("device=cude",), ("device=cude", "'cuda'")),
    (("task=fitt",), ("task=fitt", "'fit'")),
    (("data=imagenet",), ("data=imagenet", "fashion_mnist")),
    (("model=null",), ("model=null", "lenet5")),
    (("experiment=nope",), ("experiment",)),
    # an unknown key, with the nearest one
    (("optimizer.lrr=1",), ("optimizer.lrr", "'optimizer.lr'")),
    (("optimzer.lr=1",), ("optimzer.lr", "'optimizer.lr'")),
    # what it is called elsewhere, and keys without their section
    (("device=gpu",), ("device=gpu", "'device=cuda'")),
    (("task=train",), ("task=train", "'task=fit'")),
    (("lr=0.1",), ("lr: ", "'optimizer.lr'")),
    (("epochs=3",), ("epochs: ", "'trainer.max_epochs'")),
    (("trainer.epochs=3",), ("trainer.epochs", "'trainer.max_epochs'")),
    (("batch_size=32",), ("batch_size", "'data.batch_size'")),
    (("trainer.precision=16",), ("trainer.precision", "'device.precision'")),
    (("trainer.accelerator=gpu",), ("trainer.accelerator", "'device=cuda'")),
    (("+trainer.accelerator=gpu",), ("trainer.accelerator", "type device=cuda instead")),
    (("dataset=cifar10",), ("dataset", "'data=cifar10'")),
    (("images=photos",), ("images: no such key. It goes with task=predict.",)),
    (("predict.top_k=3",), ("predict.top_k: no such key. It goes with task=predict.",)),
    (("+trainer.callbacks=[]",), ("trainer.callbacks", "+callbacks.NAME=")),
    (("trainer.max_epoch=1",), ("trainer.max_epoch", "'trainer.max_epochs'")),
    (("model=linear", "model.widths=[1,2]"), ("model.widths",)),
    (("sead=1",), ("sead", "'seed'")),
    (("+sead=1",), ("sead",)),
    (("+group.x=1",), ("group",)),
    (("+early_stopping.patince=3",), ("early_stopping.patince", "'early_stopping.patience'")),
    (("+data.augmentation.zoom=2",), ("data.augmentation.zoom", "shift")),
    # a wrong type
    (("seed=abc",), ("seed=abc", "whole number")),
    (("optimizer.lr=fast",), ("optimizer.lr=fast", "number above 0")),
    (("trainer=3",), ("trainer=3", "section")),
    (("data.augmentation=null",), ("data.augmentation=null", "section")),
    (("optimizer.betas=[0.9]",), ("optimizer.betas", "2 entries")),
    # an impossible value
    (("optimizer.lr=-1",), ("optimizer.lr=-1", "above 0")),
    (("trainer.max_epochs=0",), ("trainer.max_epochs=0", "at least 1")),
    (("data.batch_size=0",), ("data.batch_size=0", "at least 1")),
    (("data.val_size=60000",), ("data.val_size=60000", "below 60000")),
    (("data=shapes", "data.images=9", "data.val_size=9"), ("data.val_size=9", "below 9")),
    (("trainer.min_epochs=11",), ("trainer.min_epochs", "trainer.max_epochs")),
    (("loss.label_smoothing=1",), ("loss.label_smoothing=1", "below 1")),
    (("tta.shift=-1",), ("tta.shift=-1", "at least 0")),
    (("param_groups.head.lr=-1",), ("param_groups.head.lr=-1", "at least 0")),
    (("param_groups.body.lr=1",), ("param_groups.body",)),
    (("data.augmentation.flip=sometimes",), ("data.augmentation.flip=sometimes", "alternating")),
    (("data.normalisation.whiten=9",), ("data.normalisation.whiten=9", "from 0 to 8")),
    (("optimizer=muon", "optimizer.rest.lr=0"), ("optimizer.rest.lr=0", "above 0")),
    (("early_stopping.patience=2", "data.val_size=0"), ("early_stopping.patience", "data.val_size")),
    (("data=folder",), ("data.path", "type data.path=photos")),
    (("data=arrays", "data.path=nope.npz"), ("data.path=nope.npz", "no such file")),
    (("data=folder", f"data.path={'a' * 300}"), ("data.path=aaa", "no such folder")),
    # files and folders that are none
    (("task=test",), ("checkpoint", "type checkpoint=last")),
    (("task=test", "checkpoint=nope.ckpt"), ("checkpoint=nope.ckpt", "no such file")),
    (("task=test", f"checkpoint={'a' * 300}"), ("checkpoint=aaa", "no such file")),
    (("task=test", "checkpoint=."), ("checkpoint=.", "not a run directory")),
    (("task=test", "checkpoint="), ("checkpoint=", "such as checkpoint=last")),
    (("task=test", "checkpoint=last"), ("checkpoint=last", "no run in outputs/runs yet")),
    (("name=last",), ("name=last", "other than last")),
    (("resume=",), ("resume=", "such as resume=last")),
    (("task=test", f"checkpoint={TRAIN}"), ("train.py", "not a checkpoint")),
    (("task=test", f"checkpoint={TRAIN}", "optimizer=sgd"), ("optimizer", "the checkpoint fixes it")),
    (("checkpoint=x.ckpt",), ("checkpoint=x.ckpt", "task=test")),
    (("resume=nope",), ("resume=nope", "no such run directory")),
    (("resume=.",), ("resume=.", "no config.yaml")),
    (("task=report", "runs=nope"), ("runs=nope", "no runs there")),
    # what is no override
    (("seed",), ("seed: not of the form key=value; ", "train.py --help")),
    (("mnist", "seed=1"), ("mnist: not of the form key=value; data=mnist or model=mnist",)),
    (("resume=a,b",), ("resume=a,b: several values; type one",)),
    (("a=b=c",), ("a=b=c", "key=value")),
    (("data_dir=[a",), ("data_dir=[a", "key=value")),
    (("data_dir=josé",), ("data_dir=josé", """quotes: "data_dir='josé'\"""")),
    (("task=predict", "images=[a[1].png,b]"), ("""quotes: "images=['a[1].png','b']\"""",)),
    (("=1",), ("=1", "key=value")),
    (("optimizer.lr=0.1,0.2", "seed=3"), ("optimizer.lr=0.1,0.2", "train.py -m optimizer.lr=0.1,0.2 seed=3")),
    (("optimizer.betas=0.9,0.99",), ("-m optimizer.betas", "for one list of them: optimizer.betas=[0.9,0.99]")),
    (("task=predict", "checkpoint=x", "images=a,b"), ("values; for one list of them: images=[a,b]",)),
    (("sweep=tpe", "seed=0"), ("sweep: goes with a sweep: ", "train.py -m sweep=tpe seed=0")),
    (("model", "=", "mnist"), ("model =", "no spaces around =")),
    (("model=", "mnist"), ("model= mnist", "no spaces around =")),
    (("data_dir=${nope}",), ("data_dir", "nope")),
    (("hydra.run.dir=${nope}",), ("hydra.run.dir", "nope")),
    # flags
    (("--nope",), ("--nope", "--help")),
    (("--help", "nope"), ("--help nope: no such group, choice or section", "optimizer")),
    (("--cfg", "nope"), ("--cfg", "job")),
    (("--config-name=nope",), ("nope",)),
    (("--resolve",), ("--resolve", "--cfg")),
    (("--experimental-rerun=x.pickle",), ("--experimental-rerun", "resume=")),
    # a key left out
    (("~seed",), ("~seed", "set it")),
    (("~model",), ("~model", "set it")),
    # what may not be built
    (("model._target_=os.system",), ("model._target_=os.system", "smallvision.models.NAME")),
    (("optimizer=muon", "optimizer.rest._target_=os.system"), ("_target_=os.system", "torch.optim.NAME")),
    (("optimizer=muon", "optimizer.rest=null"), ("optimizer",)),
    (("+optimizer.rest=os.system",), ("optimizer", "os.system")),
    (("logger._target_=subprocess.run",), ("logger._target_=subprocess.run", "lightning.pytorch.loggers")),
    # devices that are not here
    (("device=cuda",), ("device=cuda", "cpu")),
    (("device=mps",), ("device=mps", "cpu")),
    # packages that are not here
    (("logger=wandb",), ("logger=wandb", "pip install wandb")),
    (("logger=mlflow",), ("logger=mlflow", "pip install mlflow-skinny")),
]


@pytest.mark.parametrize(("typed", "words"), REFUSED, ids=[" ".join(typed)[:50] for typed, _ in REFUSED])
def test_a_mistake_is_refused_in_one_line_without_torch(
    work: Path, typed: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(run(work, *typed), work, *words)
    assert list(work.iterdir()) == []


@pytest.mark.parametrize("below", ["", "deep/er"])
def test_a_run_directory_that_cannot_be_made_is_refused(work: Path, below: str) -> None:
    (work / "file").write_text("mine")
    directory = f"file/{below}".rstrip("/")
    assert_refused(run(work, *SMALL, f"hydra.run.dir={directory}"), work, "hydra.run.dir=file", "choose another")
    assert (work / "file").read_text() == "mine"


def test_a_directory_that_holds_a_run_is_not_used_again(work: Path) -> None:
    (work / "old").mkdir()
    (work / "old" / "config.yaml").write_text("seed: 0\n")
    assert_refused(run(work, *SMALL, "hydra.run.dir=old"), work, "hydra.run.dir=old", "resume=old")
    assert [file.name for file in (work / "old").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--help",), ("task=test", "adamw         Adam with decoupled weight decay\n", "mnist_best", "install=bash")),
        (("--help", "model=resnet18"), ("ResNet18",)),
        (("--help", "sweep=tpe"), ("trials: 20",)),
        (("--help", "mnist"), ("data=mnist\n", "model=mnist\n", "widths: [10, 20]")),
        (("--help", "optimizer.lr"), ("optimizer  adam ", " sgd  ")),
        (("--help", "trainer"), ("max_epochs: 10 ", "timeout: 600 ")),
        (("--help", "task=predict"), ("top_k: 3          # most probable classes", "Also: use, name, tta, device")),
        (("task=predict", "--help"), ("images: ???      # a file, a folder",)),
        (("--version",), (f"smallvision {__version__}\n",)),
        (("--cfg", "job"), ("max_epochs: 10", "_target_: torch.optim.Adam")),
        (("--cfg", "job", "optimizer=sgd", "seed=7"), ("seed: 7", "_target_: torch.optim.SGD")),
        (("--cfg", "job", "model=cifar10"), ("smallvision.data.standard.cifar10",)),
        (("--cfg", "job", "model=cifar10", "data=shapes"), ("smallvision.data.shapes.shapes",)),
        (("--info", "defaults"), ("optimizer/adam",)),
    ],
    ids=" ".join,
)
def test_what_only_shows_ends_well_without_torch_and_leaves_nothing(
    work: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = run(work, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    for word in words:
        assert word in done.stdout
    assert list(work.iterdir()) == []


def test_help_is_one_screen_with_the_meaning_of_every_choice(work: Path) -> None:
    lines = run(work, "--help").stdout.splitlines()
    assert len(lines) < 56
    assert max(map(len, lines)) <= 80
    for file in (ROOT / "configs").glob("*/[!_]*.yaml"):
        described = file.parent.name not in ("task", "callbacks", "experiment", "module") and file.stem != "own"
        assert not described or any(re.search(rf" {file.stem} +\w.{{9}}", line) for line in lines), file


def test_help_whose_reader_has_gone_ends_quietly(work: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} {TRAIN} --help | true; echo ${{PIPESTATUS[0]}}",
        shell=True, executable="bash", cwd=work, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_a_mistake_beside_help_flags_is_refused_too(work: Path) -> None:
    assert_refused(run(work, "--cfg", "job", "seed=x"), work, "seed=x")


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (("+model.widht=[1,2]",), ("model.widht", "'widths'")),
        (("data.size=4", "data.normalisation.whiten=5"), ("data.normalisation.whiten=5", "1x4x4")),
        (("model=linear", "optimizer=muon"), ("optimizer=muon", "hidden")),
    ],
    ids=["key", "whitening", "optimizer"],
)
def test_what_only_torch_can_know_is_refused_before_training(
    work: Path, typed: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = train(work, *SMALL, *typed)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["smallvision:", "reading"]
    done.stdout = ""
    assert_refused(done, work, *words)
    assert list(work.iterdir()) == []


def test_the_first_lines_come_before_torch(work: Path) -> None:
    """Which takes seconds to be imported."""
    done = run(work, *SMALL)
    assert done.stdout.splitlines() == ["smallvision: training model=mnist on data=shapes", "  loading    PyTorch"]


# What is registered first runs last, after the command line's own end.
KEPT = """
import atexit, gc, sys
def images_that_are_left():
    import torch
    gc.unfreeze()
    tensors = [one for one in gc.get_objects() if type(one) is torch.Tensor]
    print([tuple(one.shape) for one in tensors if one.dtype == torch.uint8 and one.ndim == 4])
atexit.register(images_that_are_left)
from smallvision import cli
cli.main()
"""


def test_the_images_are_given_back_before_the_program_ends(work: Path) -> None:
    typed = ("model=linear", *SMALL, "trainer.max_epochs=1", "report=false")
    done = subprocess.run([sys.executable, "-c", KEPT, *typed], cwd=work, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_sweep_of_nothing_asks_for_something_to_search(work: Path) -> None:
    done = run(work, "-m")
    assert (done.returncode, done.stdout) == (2, "smallvision: a sweep of model=mnist on data=mnist\n")
    assert done.stderr.startswith("error: -m: nothing to search; list values or seeds, for example optimizer.lr=")
    assert list(work.iterdir()) == []


def test_images_that_are_not_there_are_refused_before_torch(work: Path) -> None:
    with zipfile.ZipFile(work / "a.ckpt", "w") as archive:
        archive.writestr("archive/version", "3\n")
    for images in ("nope.png", "[nope.png,none/*.png]"):
        assert_refused(run(work, "task=predict", "checkpoint=a.ckpt", f"images={images}"), work, "nope.png")
    assert [file.name for file in work.iterdir()] == ["a.ckpt"]


class Marks:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def test_a_checkpoint_that_would_run_something_is_refused_and_runs_nothing(work: Path, tmp_path: Path) -> None:
    mark, hostile = tmp_path / "mark", tmp_path / "hostile.ckpt"
    with zipfile.ZipFile(hostile, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"smallvision": Marks(mark)}))
        archive.writestr("archive/version", "3\n")
    done = train(work, "task=test", f"checkpoint={hostile}")
    assert done.stdout == f"smallvision: testing {hostile}\n"
    done.stdout = ""
    assert_refused(done, work, "hostile.ckpt")
    assert not mark.exists()
    assert list(work.iterdir()) == []


# In this process -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (UserError("seed=x:\n must be\t a number"), 2, "error: seed=x: must be a number\n"),
        (Interrupted(), 130, ""),
        (KeyboardInterrupt(), 130, ""),
    ],
    ids=["refusal", "interrupted", "ctrl-c"],
)
def test_each_ending_has_its_exit_code(
    raised: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, cli.exit_codes():
        raise raised
    assert ended.value.code == code
    assert capsys.readouterr() == ("", said)


def test_a_fault_of_ours_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), cli.exit_codes():
        raise ZeroDivisionError


def directory_of(*typed: str) -> Path:
    """The run directory of that command line, made."""
    composed = compose(list(typed))
    return cli.run_directory(composed, resolve_config(composed, list(typed)), list(typed))


def test_two_runs_never_share_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    composed = compose([])
    config = resolve_config(composed, [])
    first = cli.run_directory(composed, config, [])
    assert first.is_dir()
    assert first.parent == Path("outputs/runs/mnist-mnist-adam")
    with pytest.raises(UserError, match=r"hydra\.run\.dir=.*choose another"):
        cli.run_directory(composed, config, [])


def test_the_run_directory_is_named_after_what_was_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert directory_of("data=digits", "model=linear", "optimizer=sgd").parent.name == "digits-linear-sgd"


def test_a_run_on_own_images_is_named_after_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my photos").mkdir()
    path = directory_of("data=folder", "data.path='my photos'", "name=mine")
    assert path.parent == Path("outputs/runs/my-photos-mnist-adam")
    assert path.name.endswith("-mine")


def test_a_continued_run_keeps_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    old = directory_of("hydra.run.dir=old")
    RunDir(old, []).describe(resolve_config(compose([]), []).to_dict(), "a processor")
    assert directory_of("resume=old") == Path("old")
    assert list(tmp_path.iterdir()) == [tmp_path / "old"]
