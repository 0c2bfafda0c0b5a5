"""Bare state dicts: what fits is taken, all else is refused in one line, and nothing runs."""

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import plain_loop
from helpers.command import TINY
from helpers.forks import train
from torch import nn

from smallvision.core.errors import UserError
from smallvision.models import MLP, CifarNet, LeNet5, MnistNet
from smallvision.training import state_dict as bare
from smallvision.training.checkpoint import is_bare, opened, read_checkpoint

FILE = Path("model.pt")


def mnist() -> MnistNet:
    return MnistNet(1, (28, 28), 10)


def fit(content: dict[str, torch.Tensor], network: nn.Module | None = None) -> dict[str, torch.Tensor]:
    return bare.fitted(content, network or mnist(), FILE, "mnist")


# What fits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffled", [False, True])
def test_our_own_names_are_taken_in_any_order(shuffled: bool) -> None:
    own = mnist().state_dict()
    names = sorted(own) if shuffled else [*own]
    found = fit({name: own[name] for name in names})
    assert [*found] == [*own]
    assert all(torch.equal(found[name], own[name]) for name in own)


def test_another_class_s_names_are_taken_in_the_order_of_its_layers() -> None:
    theirs = plain_loop.ConvNet().state_dict()
    found = fit(theirs)
    assert [*found] == [*mnist().state_dict()]
    assert all(one is other for one, other in zip(found.values(), theirs.values(), strict=True))


def test_batch_norm_s_running_figures_come_along() -> None:
    network = CifarNet(3, (32, 32), 10, widths=(32, 128, 256))
    theirs = plain_loop.ColourNet()
    theirs.norm2.running_mean.fill_(3.0)
    network.load_state_dict(fit(theirs.state_dict(), network))
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(network.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    "network",
    [mnist(), LeNet5(1, (28, 28), 10), MLP(1, (28, 28), 10, hidden=[5])],
    ids=["mnist", "lenet5", "mlp"],
)
def test_what_is_written_is_plain_whole_and_fits_again(network: nn.Module, tmp_path: Path) -> None:
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = {f"network.{name}": one for name, one in network.state_dict().items()}
    bare.write({**weights, "train_figures.loss": torch.zeros(())}, network, tmp_path / "new/model.pt")
    content = opened(tmp_path / "new/model.pt")
    assert is_bare(content)
    assert all(one.is_contiguous() for one in content.values())
    found = bare.fitted(content, network, FILE, "any")
    assert all(torch.equal(found[name], one) for name, one in network.state_dict().items())
    assert [one.name for one in (tmp_path / "new").iterdir()] == ["model.pt"]


def test_the_quickstart_s_names_are_those_of_its_class(tmp_path: Path) -> None:
    network = MLP(1, (28, 28), 10)
    assert [network.plain_name(name) for name in network.state_dict()] == [*plain_loop.NeuralNetwork().state_dict()]


def test_a_link_in_a_run_directory_leads_no_file_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run/sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"save_model=sub/new/a\.pt: a link leads out of the run directory"):
        bare.target("sub/new/a.pt", tmp_path / "run")
    for typed in (str(tmp_path / "elsewhere/a.pt"), "../elsewhere/a.pt"):
        found = bare.target(typed, tmp_path / "run")
        assert found is not None
        assert found.resolve() == tmp_path / "elsewhere/a.pt"


# What does not --------------------------------------------------------------------------------------------


def changed(**changes: Any) -> dict[str, torch.Tensor]:
    return {**mnist().state_dict(), **{name.replace("__", "."): one for name, one in changes.items()}}


OWN = mnist().state_dict()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (changed(classifier__weight=torch.zeros(10, 501)), r"weight \(float32, 10 x 501\) does not fit"),
        (changed(classifier__bias=torch.zeros(10).long()), r"classifier\.bias \(int64, 10\) does not fit"),
        (changed(classifier__bias=torch.zeros(10) * 1j), r"classifier\.bias \(complex64, 10\) does not fit"),
        (changed(classifier__bias=torch.tensor(1.0)), r"classifier\.bias \(float32, one number\) does not"),
        (changed(more=torch.zeros(1)), "has 7 tensors, model=mnist has 6"),
        (dict([*OWN.items()][:-1]), "has 5 tensors, model=mnist has 6"),
        ({"weight": torch.zeros(3)}, r"weight \(float32, 3\) does not fit"),
        # The names of another part, and ours in other places.
        ({f"{name}x": one for name, one in OWN.items()}, r"features\.0\.weightx .* does not fit"),
        ({**{"classifier.weight": OWN["features.0.weight"]}, **{f"a.{n}": o for n, o in OWN.items()}},
         r"classifier\.weight \(float32, 10 x 1 x 3 x 3\) does not fit"),
    ],
    ids=["wide", "whole", "complex", "one number", "more", "fewer", "another", "renamed", "misplaced"],
)  # fmt: skip
def test_names_and_shapes_that_do_not_fit_are_refused(content: dict[str, torch.Tensor], words: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.pt: .*{words}") as refused:
        fit(content)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [{}, [OWN], {"epoch": 3, **OWN}, {1: torch.zeros(1)}, {"a": {"b": torch.zeros(1)}}, torch.zeros(3)],
    ids=["empty", "a list", "more than tensors", "a number as name", "nested", "a tensor"],
)
def test_other_plain_data_are_no_bare_state_dict(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "model.pt")
    assert not is_bare(opened(tmp_path / "model.pt"))
    with pytest.raises(UserError, match=r"model\.pt: not a checkpoint of smallvision$"):
        read_checkpoint(tmp_path / "model.pt")


# Hostile files, by the command line -----------------------------------------------------------------------


class Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.mark),)


def bomb() -> torch.Tensor:
    """A milliard of numbers that are one."""
    return torch.zeros(1).expand(10, 10**8)


def sparse() -> torch.Tensor:
    return torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (10**6, 10**6), check_invariants=False)


HOSTILE: dict[str, Any] = {
    "a call": lambda mark: {**OWN, "more": Runs(mark)},
    "a call in place of a tensor": lambda mark: {**OWN, "classifier.bias": Runs(mark)},
    "a call in an ordered dict": lambda mark: OrderedDict(OWN | {"more": Runs(mark)}),
    "a whole module": lambda mark: mnist(),
    "parameters": lambda mark: dict(mnist().named_parameters()),
    "a tensor without its elements": lambda mark: {**OWN, "classifier.weight": bomb()},
    "a sparse one": lambda mark: {**OWN, "classifier.weight": sparse()},
    "a bytearray": lambda mark: {**OWN, "more": bytearray(10)},
    "a shape": lambda mark: {**OWN, "classifier.weight": torch.zeros(3, 3)},
    "no tensors": lambda mark: {"a": 1},
}


@pytest.mark.parametrize("kind", [*HOSTILE, "old form", "a pickle", "truncated", "a flipped bit", "nothing"])
def test_a_hostile_file_is_refused_in_one_line_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    file, mark = tmp_path / "model.pt", tmp_path / "mark"
    torch.save(HOSTILE.get(kind, lambda mark: OWN)(mark), file, _use_new_zipfile_serialization=kind != "old form")
    if kind == "a pickle":
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("model/data.pkl", pickle.dumps(Runs(mark), protocol=2))
            archive.writestr("model/version", "3\n")
    whole = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(whole[: len(whole) // 2])
    elif kind == "a flipped bit":
        at = whole.index(OWN["classifier.weight"].numpy().tobytes()[:40])
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    elif kind == "nothing":
        file.write_bytes(b"")
    process = train(tmp_path, "task=test", "checkpoint=model.pt", "model=mnist", *TINY[:4], "hydra.run.dir=run")
    assert process.returncode == 2
    assert process.stderr.startswith("error: model.pt: ")
    assert process.stderr.count("\n") == 1
    assert "Traceback" not in process.stderr
    assert not mark.exists()
    assert not (tmp_path / "run").exists()
