"""Predictions of image files as lines, counts and rows."""

import io
from pathlib import Path

import pytest
import rich.console

from smallvision.core.console import Console
from smallvision.reports.predictions import (
    MAX_LINES,
    FolderLabels,
    Prediction,
    PredictionPrinter,
    csv_header,
    csv_row,
    one_line,
    shortened,
)

CLASSES = ["T-shirt/top", "Ankle boot", "7"]


@pytest.mark.parametrize(
    ("folder", "actual"),
    [
        ("T-shirt_top", "T-shirt/top"), ("t-shirt top", "T-shirt/top"), ("T-SHIRT-TOP", "T-shirt/top"),
        ("ankle_boot", "Ankle boot"), ("Ankle boot", "Ankle boot"), ("7", "7"), ("07", None), ("boot", None),
    ],
)  # fmt: skip
def test_a_folder_named_after_a_class_labels_its_images(folder: str, actual: str | None) -> None:
    assert FolderLabels(CLASSES).of(Path("some", folder, "it.png")) == actual


def test_only_the_image_s_own_folder_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert FolderLabels(CLASSES).of(Path("7/old/it.png")) is None
    (tmp_path / "7").mkdir()
    monkeypatch.chdir(tmp_path / "7")
    assert FolderLabels(CLASSES).of(Path("it.png")) == "7"


def test_classes_that_differ_in_separators_alone_stay_distinct() -> None:
    labels = FolderLabels(["a_b", "a b"])
    assert labels.of(Path("a_b/it.png")) == "a_b"
    assert labels.of(Path("A-B/it.png")) is None


def printed(*predictions: Prediction, files: int = 1, classes: list[str] = CLASSES) -> list[str]:
    terminal = rich.console.Console(file=io.StringIO(), width=1000, markup=False, soft_wrap=True)
    printer = PredictionPrinter(Console(terminal), [predictions[0].file] * files, classes, 2)
    for prediction in predictions:
        printer.print(prediction)
    printer.print_notes()
    return terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_line_reads_as_in_the_tutorials() -> None:
    top = [("Ankle boot", 0.9), ("7", 0.1)]
    (line,) = printed(Prediction("ankle boot/1.png", top, "Ankle boot"))
    assert 'Predicted: "Ankle boot", Actual: "Ankle boot"' in line
    assert line.endswith("0.9000")
    (line,) = printed(Prediction("1.png", top))
    assert line.endswith('Predicted: "Ankle boot"   0.9000  then 7 0.1000')


def test_lines_are_no_longer_than_80_columns() -> None:
    top = [("a class with a long name" * 3, 0.9), ("7", 0.1)]
    classes = [name for name, _ in top]
    for actual in (None, top[0][0]):
        for name in (f"{actual}/a.png", f"{actual}/{'a long name' * 9}.png", f"{actual}/{'x' * 300}"):
            lines = printed(
                Prediction(name, top, actual), Prediction(name, error="damaged " * 30), files=2, classes=classes
            )
            assert max(map(len, lines)) <= 80


def test_no_name_can_add_lines_or_control_the_terminal() -> None:
    bad = "a\nPredicted: \x1b[2J\u202e.png"
    lines = printed(
        Prediction(bad, [("7\n\x1b", 0.9)], "x\ny"), Prediction(bad, error="no\n\x07good"), files=2
    )  # fmt: skip
    assert all(line.isprintable() for line in lines)
    assert all(word.isprintable() for word in csv_row(Prediction(bad, [("7\n\x1b", 0.9)], "x\ny"), 2))
    assert one_line("\udcff\n") == "\\udcff\\n"


def test_many_images_are_a_bounded_number_of_lines() -> None:
    read = [Prediction("a.png", [("7", 1.0)])] * 500
    lines = printed(*read, *[Prediction("a.png", error="damaged")] * 300, files=800)
    assert len(lines) < 2 * MAX_LINES + 6
    assert f"  and {800 - 2 * MAX_LINES} more: predictions.csv has them all" in lines


def test_inverted_images_are_counted_in_one_line() -> None:
    light, dark = Prediction("a", [("7", 1.0)], None, "kept"), Prediction("a", [("7", 1.0)], None, "inverted")
    assert printed(light, dark, dark, files=3)[-1] == "  note       2 of 3 images are dark on light: inverted"
    assert printed(dark)[-1] == "  note       1 of 1 image is dark on light: inverted"
    assert not any("inverted" in line for line in printed(light))


def test_rows_have_as_many_cells_as_the_header() -> None:
    one = Prediction("a.png", [("7", 0.75), ("Ankle boot", 0.25)], "7", "kept", "centered")
    assert dict(zip(csv_header(2), csv_row(one, 2), strict=True)) == {
        "file": "a.png", "predicted": "7", "probability": "0.750000", "actual": "7", "class_2": "Ankle boot",
        "probability_2": "0.250000", "polarity": "kept", "resize": "centered", "error": "",
    }  # fmt: skip
    assert len(csv_row(Prediction("a.png", error="damaged"), 2)) == len(csv_header(2))


@pytest.mark.parametrize("most", [2, 3, 10, 48])
def test_a_long_name_keeps_both_ends(most: int) -> None:
    cut = shortened("abcdefghij" * 9, most)
    assert len(cut) == most
    assert cut.endswith("j")
