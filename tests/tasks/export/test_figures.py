"""The figures on a card are those of this network's own run, or none."""

import json
from types import SimpleNamespace

import pytest

from smallvision.tasks.export.figures import Accuracy, figures

DATA = {"name": "x", "source": "here", "fingerprint": "0123", "stand_in_for": None, "remark": None}
RESULTS = {
    "status": "completed", "task": "fit", "seed": 0, "device": "cpu", "precision": "32",
    "data": {**DATA, "train": 500, "val": 60, "test": 200}, "model": {"name": "m", "parameters": 7},
    "optimizer": "adam", "epochs": 4, "steps": 40, "metrics": {"val/acc": 0.75, "test/acc": 0.5},
    "best_checkpoint": "checkpoints/best.ckpt", "seconds": {"total": 1.0, "fit": 1.0, "test": 1.0},
    "images_per_second": 10.0, "best_epoch": 3, "tested": 100,
}  # fmt: skip


def found(folder, results, name="checkpoints/best.ckpt", trainer=None, epoch=3):
    """The figures of a run with those results, for the checkpoint of that name."""
    (folder / "results.json").write_text(results if isinstance(results, str) else json.dumps(results))
    trained = SimpleNamespace(plain={"data": DATA, "config": {"trainer": trainer or {}}}, epoch=epoch)
    return figures(folder / name, trained)


def test_the_best_checkpoint_of_a_run_has_the_figures_of_its_run(tmp_path):
    assert found(tmp_path, RESULTS) == [Accuracy("validation", 0.75, 60), Accuracy("test", 0.5, 100)]


def test_where_validation_was_cut_short_nobody_knows_of_how_many_it_is(tmp_path):
    validation, _ = found(tmp_path, RESULTS, trainer={"limit_val_batches": 1})
    assert validation == Accuracy("validation", 0.75, None)


@pytest.mark.parametrize("name", ["checkpoints/last.ckpt", "best.ckpt", "elsewhere/best.ckpt"])
def test_another_checkpoint_has_none(tmp_path, name):
    assert found(tmp_path, RESULTS, name) == []


@pytest.mark.parametrize(
    "other", [{"task": "test"}, {"best_epoch": 7}, {"data": {**RESULTS["data"], "fingerprint": "4567"}}]
)
def test_figures_of_something_else_are_not_this_networks(tmp_path, other):
    assert found(tmp_path, {**RESULTS, **other}) == []


@pytest.mark.parametrize("wrong", ["", "[", "{}", "[" * 100_000, json.dumps({**RESULTS, "data": []})])
def test_what_is_no_results_of_a_run_counts_for_nothing(tmp_path, wrong):
    assert found(tmp_path, wrong) == []


@pytest.mark.parametrize("wrong", [None, 2, -1, 1e999, float("nan")])
def test_what_is_no_share_is_left_out(tmp_path, wrong):
    assert found(tmp_path, {**RESULTS, "metrics": {"val/acc": wrong, "test/acc": wrong}}) == []
    assert len(found(tmp_path, {**RESULTS, "tested": 0})) == 1
