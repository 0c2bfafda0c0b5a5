"""A benchmark measures everything in turn and reports how it compares."""

from helpers.command import TINY, results
from PIL import Image

from smallvision.config.compose import compose
from smallvision.config.resolve import resolve_config
from smallvision.core.run_dir import opened
from smallvision.tasks import bench
from smallvision.tasks.bench import measure


def test_a_benchmark_times_our_run_its_choices_and_the_others(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(measure, "SIZES", (50, 500))
    monkeypatch.setattr(measure, "SECONDS", 0.01)
    typed = ["task=bench", *TINY, "bench.rounds=2", "bench.seconds=0.05", "device=cpu"]
    config = resolve_config(compose(typed), typed)
    with opened(tmp_path, typed) as run_dir:
        bench.run(config, run_dir, None)
    out, err = capfd.readouterr()
    assert err == ""
    found = results(tmp_path)
    assert (found["status"], found["task"]) == ("completed", "bench")
    speeds = found["bench"]["speed"]
    assert list(speeds) == [
        "smallvision", "  contiguous", "  optimizer not fused", "raw loop, our format and precision",
        "raw loop, float32, default format", "classic pipeline",
    ]  # fmt: skip
    for name, speed in speeds.items():
        assert name in out
        assert len(speed["rounds"]) == 2
        assert speed["low"] <= speed["images_per_second"] <= speed["high"]
    assert found["images_per_second"] == speeds["smallvision"]["images_per_second"]
    assert 0 < found["bench"]["peak"]["fraction"] < 1
    assert set(found["bench"]["products"]["cpu"]["gflops"]) == {"float32", "bfloat16"}
    with Image.open(tmp_path / "bench.png") as image:
        assert image.size[0] > 1000
        assert len(image.getcolors(1_000_000) or []) > 50
