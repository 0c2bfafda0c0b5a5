"""Accuracy, confusions and calibration out of probabilities and labels."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from smallvision.reports.evaluation import Accuracy, Evaluation
from smallvision.reports.statistics import wilson


def test_predictions_are_counted_by_class_and_by_confidence():
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    evaluation = Evaluation(probabilities, np.array([0, 1, 1, 1]))
    assert evaluation.confusion.tolist() == [[1, 0], [2, 1]]
    hardest, easiest = evaluation.classes
    assert (hardest.index, hardest.accuracy.value, hardest.accuracy.count) == (1, pytest.approx(1 / 3), 3)
    assert (hardest.confused_with, easiest.confused_with) == ((0, 2), None)
    assert evaluation.top_confusions(5) == [(1, 0, 2)]
    # |1 - 0.9|, |0 - 0.8|, |1 - 0.7|, |0 - 0.6|, each alone in its bin
    assert evaluation.calibration_error == pytest.approx((0.1 + 0.8 + 0.3 + 0.6) / 4)


def test_precision_recall_and_f1_are_those_of_scikit_learn():
    random = np.random.default_rng(0)
    labels, probabilities = random.integers(0, 4, 300), random.dirichlet([1, 1, 2, 1], 300)
    probabilities[:, 3] = 0  # never predicted
    classes = sorted(Evaluation(probabilities, labels).classes, key=lambda one: one.index)
    found = [[one.precision, one.accuracy.value, one.f1, one.accuracy.count] for one in classes]
    expected = precision_recall_fscore_support(labels, probabilities.argmax(1), zero_division=0)
    assert np.array(found) == pytest.approx(np.stack(expected, 1))


def test_calibrated_probabilities_have_a_small_calibration_error():
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 100_000)
    labels = (random.uniform(size=100_000) >= confidence).astype(int)
    assert Evaluation(np.stack([confidence, 1 - confidence], 1), labels).calibration_error < 0.01
    underconfident = np.stack([confidence**4, 1 - confidence**4], 1).clip(0.5, 1)
    assert Evaluation(underconfident, labels).calibration_error > 0.05


def test_an_accuracy_comes_with_wilsons_interval():
    assert Accuracy.of(0.75, 200) == Accuracy(0.75, 200, *wilson(150, 200))


@pytest.mark.parametrize(("value", "count"), [(None, 10), (0.5, 0), (float("nan"), 10), (1.5, 10), (-0.1, 10)])
def test_there_is_no_accuracy_without_images_or_of_what_is_no_fraction(value, count):
    assert Accuracy.of(value, count) is None
