"""The page and the logs that are written at the end of a run; none of their errors fails the run."""

import json
import re

import pytest
from helpers.command import TINY, results
from helpers.forks import train
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from smallvision.reports.run_view import RunView


def test_a_fit_and_a_test_write_their_page(finished, tmp_path):
    folder, process = finished
    assert "report     run/report.html (" in process.stdout
    text = (folder / "run/report.html").read_text()
    assert "<h2>Training</h2>" in text
    assert text.count("<svg") == 16  # five curves, reliability, a bar for each class
    view = RunView.read(folder / "run")
    assert view.evaluation.probabilities.shape == (200, 10)
    found = results(folder / "run")
    assert view.evaluation.correct.mean() == pytest.approx(found["metrics"]["test/acc"])
    assert len(found["seconds"]["epochs"]) == 2
    spent = sum(sum(epoch.values()) for epoch in found["seconds"]["epochs"])
    assert 0 < spent <= found["seconds"]["total"]
    tested = train(tmp_path, "task=test", f"checkpoint={folder}/run/checkpoints/best.ckpt", "hydra.run.dir=t")
    assert tested.returncode == 0, tested.stderr
    again = RunView.read(tmp_path / "t")
    assert (again.evaluation.probabilities == view.evaluation.probabilities).all()
    assert "<h2>Training</h2>" not in (tmp_path / "t/report.html").read_text()


def test_a_page_that_cannot_be_written_does_not_fail_the_run(tmp_path):
    (tmp_path / "run/report.npz").mkdir(parents=True)  # in its way
    process = train(tmp_path, *TINY, "report=true", "trainer.max_epochs=1", "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    assert "report.html could not be written" in process.stdout
    assert results(tmp_path / "run")["status"] == "completed"


def test_a_partial_test_is_marked_and_its_interval_is_for_the_tested_images(tmp_path):
    process = train(
        tmp_path, *TINY, "report=true", "trainer.max_epochs=1", "trainer.limit_test_batches=1",
        "data.eval_batch_size=50",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "n = 50)" in process.stdout
    assert "on 50 of the 200 test images" in process.stdout
    assert results(tmp_path / "run")["tested"] == 50
    assert results(tmp_path / "run")["cut_short"] == "trainer.limit_test_batches=1"
    assert "Partial test." in (tmp_path / "run/report.html").read_text()


def test_the_reason_of_a_failure_is_in_the_results_and_on_the_page(tmp_path):
    process = train(tmp_path, *TINY, "report=true", "optimizer=sgd", "optimizer.lr=1e9", "hydra.run.dir=run")
    assert process.returncode == 2
    found = results(tmp_path / "run")
    assert found["status"] == "failed"
    assert "the loss turned" in found["reason"]
    assert "the loss turned" in (tmp_path / "run/report.html").read_text()


def test_a_continued_run_has_the_seconds_of_all_its_epochs(tmp_path):
    assert train(tmp_path, *TINY, "trainer.max_epochs=1", "hydra.run.dir=run").returncode == 0
    process = train(tmp_path, "resume=run", "trainer.max_epochs=3")
    assert process.returncode == 0, process.stderr
    epochs = json.loads((tmp_path / "run/results.json").read_text())["seconds"]["epochs"]
    assert [epoch["train"] > 0 and epoch["val"] > 0 for epoch in epochs] == [True] * 3


def test_tensorboard_gets_hyperparameters_confusion_matrix_images_and_graph_beside_metrics_csv(tmp_path):
    process = train(
        tmp_path, *TINY, "logger=tensorboard", "logger.graph=true", "trainer.max_epochs=1",
        "hydra.run.dir=run",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert re.search(rf"^  curves     (\S+/)?tensorboard --logdir {tmp_path}$", process.stdout, re.MULTILINE)
    assert "could not" not in process.stdout
    assert (tmp_path / "run/metrics.csv").is_file()
    board = EventAccumulator(str(tmp_path / "run"))
    board.Reload()
    tags = board.Tags()
    assert {"train/samples", "train/samples/0", "test/confusion"} & set(tags["images"])
    assert "test/confusion" in tags["images"]
    assert tags["graph"]
    found = results(tmp_path / "run")["metrics"]
    (final,) = board.Scalars("final/test/acc")
    assert final.value == pytest.approx(found["test/acc"])
    assert "_hparams_/session_start_info" in board.summary_metadata
