"""What a network's answers on the test images say: where it errs, and whether to trust its probabilities."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from smallvision.reports.statistics import wilson

BINS = 15  # of confidence, as is usual since C. Guo et al., On Calibration of Modern Neural Networks (2017)
Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Bin:
    """Answers of about the same confidence: its mean, how many of the ``count`` are ``right``."""

    confidence: float
    right: int
    count: int


@dataclass(frozen=True)
class ClassStats:
    """The images of one class: ``taken_for``: the wrong class that they get most often, and how often."""

    index: int
    right: int
    count: int
    interval: tuple[float, float]
    taken_for: tuple[int, int] | None


@dataclass(frozen=True)
class Evaluation:
    """``probabilities``: N x classes; ``labels``: N, the true classes; both of the same images."""

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
    def is_right(self) -> Array:
        return self.predicted == self.labels

    @cached_property
    def confusion(self) -> Array:
        """Counts, true class x predicted class."""
        classes = self.probabilities.shape[1]
        cells = self.labels.astype(np.int64) * classes + self.predicted
        return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)

    @cached_property
    def classes(self) -> list[ClassStats]:
        """Each class of which there are images, in order."""
        found = []
        for index, row in enumerate(self.confusion):
            if not (count := int(row.sum())):
                continue
            wrong = row.copy()
            wrong[index] = 0
            most = int(wrong.argmax())
            right = int(row[index])
            taken_for = (most, int(wrong[most])) if wrong[most] else None
            found.append(ClassStats(index, right, count, wilson(right, count), taken_for))
        return found

    def confused(self, most: int) -> list[tuple[int, int, int]]:
        """True class, predicted class and how often, of the commonest confusions."""
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:most]
        pairs = [(int(cell) // len(wrong), int(cell) % len(wrong)) for cell in order]
        return [(true, answer, int(wrong[true, answer])) for true, answer in pairs if wrong[true, answer]]

    @cached_property
    def bins(self) -> list[Bin]:
        """Of equal width over [0, 1]; empty ones left out."""
        place = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        return [
            Bin(float(self.confidence[chosen].mean()), int(self.is_right[chosen].sum()), int(chosen.sum()))
            for chosen in (place == number for number in range(BINS))
            if chosen.any()
        ]

    @cached_property
    def calibration_error(self) -> float:
        """The expected calibration error: by how much confidence and share of right answers differ, as a mean
        over the images, bin by bin. Source: M. P. Naeini et al., AAAI 2015.
        """
        return sum(abs(one.right - one.confidence * one.count) for one in self.bins) / len(self.labels)
