"""A benchmark measures everything in turn and says how it compares."""

import pytest
from helpers.command import TINY, results
from helpers.forks import train
from PIL import Image

from smallvision.tasks.bench import compare


def test_a_benchmark_times_our_run_its_choices_and_the_others(tmp_path):
    typed = ["task=bench", *TINY, "bench.rounds=2", "bench.seconds=0.05", "device=cpu"]
    process = train(tmp_path, *typed, "hydra.run.dir=run")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    found = results(tmp_path / "run")
    assert (found["status"], found["task"]) == ("completed", "bench")
    speed = found["bench"]["speed"]
    assert list(speed) == [
        "smallvision", "  contiguous", "  optimizer not fused", "raw loop, our format and precision",
        "raw loop, float32, default format", "classic pipeline",
    ]  # fmt: skip
    for name, row in speed.items():
        assert name in process.stdout
        assert len(row["rounds"]) == 2
        assert row["low"] <= row["images_per_second"] <= row["high"]
    assert found["images_per_second"] == speed["smallvision"]["images_per_second"]
    assert 0 < found["bench"]["peak"]["share"] < 1
    assert set(found["bench"]["products"]) >= {"cpu float32", "cpu bfloat16"}
    with Image.open(tmp_path / "run" / "bench.png") as picture:
        assert picture.size[0] > 1000
        assert len(picture.getcolors(1_000_000) or []) > 50


def test_ratios_are_medians_over_rounds_not_ratios_of_medians():
    rows = compare({"smallvision": [10.0, 100.0, 30.0], "other": [5.0, 10.0, 30.0]})
    assert rows["other"]["ours_is"] == pytest.approx(2.0)
    assert rows["smallvision"]["ours_is"] == 1
    assert rows["other"]["images_per_second"] == 10
