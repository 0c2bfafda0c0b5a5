"""How good a network is on the test images: accuracy, confusions, and whether its probabilities can be trusted."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from smallvision.reports.statistics import wilson

BINS = 15  # of confidence, usual since C. Guo et al., On Calibration of Modern Neural Networks (2017)


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
class ClassStats:
    """The images of one class: ``accuracy`` is their recall; ``precision``, 0 for a class that was never predicted, and
    ``f1`` as usual; ``confused_with``: the wrong class that they are most often taken for, and how often.
    """

    index: int
    accuracy: Accuracy
    precision: float
    f1: float
    confused_with: tuple[int, int] | None


@dataclass(frozen=True)
class Bin:
    """``count`` predictions of about the same ``confidence`` (their mean), of which ``correct`` are."""

    confidence: float
    correct: int
    count: int


@dataclass(frozen=True)
class Evaluation:
    """``probabilities``: N x classes; ``labels``: N, the true classes of the same images."""

    probabilities: npt.NDArray[np.floating]
    labels: npt.NDArray[np.integer]

    @cached_property
    def predicted(self) -> npt.NDArray[np.intp]:
        return self.probabilities.argmax(1)

    @cached_property
    def confidence(self) -> npt.NDArray[np.floating]:
        """The probability of the predicted class, N."""
        return self.probabilities.max(1)

    @cached_property
    def correct(self) -> npt.NDArray[np.bool_]:
        return np.equal(self.predicted, self.labels)

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts, true class x predicted class."""
        matrix = np.zeros((self.probabilities.shape[1],) * 2, np.int64)
        np.add.at(matrix, (self.labels, self.predicted), 1)
        return matrix

    @cached_property
    def errors(self) -> npt.NDArray[np.int64]:
        """The confusion matrix with zeros on its diagonal."""
        return self.confusion - np.diag(np.diag(self.confusion))

    @property
    def shades(self) -> npt.NDArray[np.float64]:
        """Of the confusion matrix, 0 to 1: on its diagonal the accuracy of the class, beside it the root of the count
        as a fraction of the largest one, so that a few errors are visible.
        """
        shades: npt.NDArray[np.float64] = np.sqrt(self.errors / max(int(self.errors.max()), 1))
        np.fill_diagonal(shades, np.diag(self.confusion) / self.confusion.sum(1).clip(1))
        return shades

    @cached_property
    def classes(self) -> list[ClassStats]:
        """Of each class that has images, the least accurate first."""
        found, predicted = [], self.confusion.sum(0).tolist()
        for index, (row, wrong) in enumerate(zip(self.confusion.tolist(), self.errors.tolist(), strict=True)):
            if accuracy := Accuracy.of(row[index] / max(sum(row), 1), sum(row)):
                other, correct = wrong.index(max(wrong)), row[index]
                precision, f1 = correct / max(predicted[index], 1), 2 * correct / (sum(row) + predicted[index])
                confused = (other, wrong[other]) if wrong[other] else None
                found.append(ClassStats(index, accuracy, precision, f1, confused))
        return sorted(found, key=lambda stats: stats.accuracy.value)

    @property
    def balanced_accuracy(self) -> float:
        """The mean of the classes' accuracies, which a majority class cannot raise."""
        return math.fsum(stats.accuracy.value for stats in self.classes) / len(self.classes)

    def top_confusions(self, limit: int) -> list[tuple[int, int, int]]:
        """True class, predicted class and count of the most frequent confusions."""
        order = np.argsort(-self.errors, axis=None, kind="stable")[:limit]
        pairs = [divmod(int(cell), len(self.errors)) for cell in order]
        return [(true, wrong, int(self.errors[true, wrong])) for true, wrong in pairs if self.errors[true, wrong]]

    @cached_property
    def bins(self) -> list[Bin]:
        """Of equal width over [0, 1], without the empty ones."""
        numbers = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        chosen = [numbers == number for number in np.unique(numbers)]
        return [Bin(float(self.confidence[one].mean()), int(self.correct[one].sum()), int(one.sum())) for one in chosen]

    @cached_property
    def calibration_error(self) -> float:
        """The expected calibration error: the mean over images of the difference between the confidence and the
        accuracy of their bin. Source: M. P. Naeini et al., AAAI 2015.
        """
        return math.fsum(abs(one.correct - one.confidence * one.count) for one in self.bins) / len(self.labels)
