"""How good a network is on the test images: accuracy, confusions, and whether its probabilities can be trusted."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from smallvision.reports.statistics import wilson

BINS = 15  # of confidence, usual since C. Guo et al., On Calibration of Modern Neural Networks (2017)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Accuracy:
    """``value``: the fraction of ``count`` images that are classified correctly; ``low``, ``high``: its 95 %
    interval.
    """

    value: float
    count: int
    low: float
    high: float

    @classmethod
    def of(cls, value: float | None, count: int) -> "Accuracy | None":
        """None where nothing was measured, or the value is no fraction."""
        if value is None or not 0 <= value <= 1 or not count:
            return None
        return cls(value, count, *wilson(round(value * count), count))


@dataclass(frozen=True)
class Bin:
    """``count`` predictions of about the same ``confidence`` (their mean), of which ``correct`` are."""

    confidence: float
    correct: int
    count: int


@dataclass(frozen=True)
class ClassStats:
    """The images of one class. ``confused_with``: the wrong class that they are most often taken for, and how often."""

    index: int
    accuracy: Accuracy
    confused_with: tuple[int, int] | None


@dataclass(frozen=True)
class Evaluation:
    """``probabilities``: N x classes; ``labels``: N, the true classes of the same images."""

    probabilities: Array
    labels: Array

    @cached_property
    def predicted(self) -> Array:
        return self.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> Array:
        """The probability of the predicted class, N."""
        return self.probabilities.max(1)

    @cached_property
    def correct(self) -> Array:
        """Booleans, N."""
        return self.predicted == self.labels

    @cached_property
    def confusion(self) -> Array:
        """Counts, true class x predicted class."""
        classes = self.probabilities.shape[1]
        cells = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)

    @cached_property
    def errors(self) -> Array:
        """The confusion matrix with zeros on its diagonal."""
        return self.confusion - np.diag(np.diag(self.confusion))

    @cached_property
    def classes(self) -> list[ClassStats]:
        """Of each class that has images, the least accurate first."""
        found = []
        for index, (row, wrong) in enumerate(zip(self.confusion, self.errors, strict=True)):
            total = int(row.sum())
            if accuracy := Accuracy.of(int(row[index]) / total if total else None, total):
                other = int(wrong.argmax())
                found.append(ClassStats(index, accuracy, (other, int(wrong[other])) if wrong[other] else None))
        return sorted(found, key=lambda stats: stats.accuracy.value)

    def top_confusions(self, limit: int) -> list[tuple[int, int, int]]:
        """True class, predicted class and count of the most frequent confusions."""
        order = np.argsort(-self.errors, axis=None, kind="stable")[:limit]
        pairs = [divmod(int(cell), len(self.errors)) for cell in order]
        return [(true, wrong, int(self.errors[true, wrong])) for true, wrong in pairs if self.errors[true, wrong]]

    @cached_property
    def bins(self) -> list[Bin]:
        """Of equal width over [0, 1], without the empty ones."""
        numbers = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        chosen = [numbers == number for number in range(BINS)]
        return [
            Bin(float(self.confidence[one].mean()), int(self.correct[one].sum()), int(one.sum()))
            for one in chosen
            if one.any()
        ]

    @cached_property
    def calibration_error(self) -> float:
        """The expected calibration error: the mean over images of the difference between the confidence and the
        accuracy of their bin. Source: M. P. Naeini et al., AAAI 2015.
        """
        return math.fsum(abs(one.correct - one.confidence * one.count) for one in self.bins) / len(self.labels)
