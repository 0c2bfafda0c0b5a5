"""task=bench: where the time goes on this machine, in our run, in other pipelines and in the hardware itself."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir
from smallvision.tasks import common
from smallvision.tasks.bench import measure
from smallvision.tasks.bench.measure import Contender, Products, Speed
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.factory import Experiment, make_data, make_experiment

OURS, OTHERS = "#0b6e99", "#a9b4bc"


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> Results:
    """Time every contender ``bench.rounds`` times, in turn; medians and ratios go to results.json and bench.png."""
    console = Console()
    assert run_dir is not None
    config = config.updated({"data": {"progressive_resizing": {"size": 0, "epochs": 0}}})  # every epoch alike
    assert config.bench is not None
    experiment = make_experiment(config, make_data(config))
    run_dir.describe(config.to_dict(), experiment.device.hardware)
    common.summary(console, config, experiment, run_dir)
    everyone = list(contenders(config, experiment))
    rates: dict[str, list[float]] = {contender.name: [] for contender in everyone}
    console.print()
    for number in range(config.bench.rounds):  # A B C, A B C, ...: a slow minute of the machine slows down all alike
        for contender in everyone:
            rates[contender.name].append(contender.measure(config.bench.seconds))
        console.print(f"  round {number + 1} of {config.bench.rounds}")
    speeds = {name: Speed.of(own, ours=rates["smallvision"]) for name, own in rates.items()}
    print_speeds(console, speeds)
    products = {device.type: measure.time_products(device, config.bench.large) for device in measure.devices()}
    print_products(console, products)
    # What the network computes per second (backward counts twice forward), and the peak of this machine.
    ours = speeds["smallvision"].images_per_second
    dtype = "bfloat16" if experiment.device.precision == "bf16-mixed" else "float32"
    gflops = 3 * experiment.flops * ours / 1e9
    peak = max(products[experiment.device.kind].gflops[dtype].values())
    console.print()
    console.print(
        f"  the network computes at {gflops:,.0f} GFLOP/s, {gflops / peak:.0%} of the fastest matrix product here"
        f" in {dtype}"
    )
    results = common.results(config, experiment, run_dir, "completed")
    results.images_per_second = ours
    results.extra["bench"] = {
        "speed": {name: asdict(speed) for name, speed in speeds.items()},
        "products": {device: asdict(of) for device, of in products.items()},
        "peak": {"gflops": gflops, "peak_gflops": peak, "fraction": gflops / peak, "dtype": dtype},
    }
    results.write(run_dir)
    file = run_dir.path / "bench.png"
    plot(speeds, products, f"{config.model.name} on {experiment.data.dataset.name}, {experiment.device}", file)
    console.print()
    console.fields({"plot": str(file)})
    return results


def contenders(config: Config, experiment: Experiment) -> Iterator[Contender]:
    """Our run, the same with each of the device's choices turned off, and what others do."""
    device = experiment.device
    off: list[tuple[str, bool, dict[str, dict[str, object]]]] = [
        ("float32", device.precision != "32", {"device": {"precision": "32"}}),
        ("contiguous", device.channels_last, {"device": {"memory_format": "contiguous"}}),
        ("not compiled", device.compile, {"device": {"compile": False}}),
        ("optimizer not fused", "fused" in config.optimizer.extra, {"optimizer": {"fused": False}}),
    ]
    yield measure.SmallVision("smallvision", config, experiment)
    for name, is_on, change in off:
        if is_on:
            yield measure.SmallVision(f"  {name}", config.updated(change), experiment)
    if device.channels_last or device.precision != "32":
        yield measure.RawLoop("raw loop, our format and precision", config, experiment, like_ours=True)
    yield measure.RawLoop("raw loop, float32, default format", config, experiment)
    yield measure.ClassicPipeline("classic pipeline", config, experiment)


def print_speeds(console: Console, speeds: dict[str, Speed]) -> None:
    console.print()
    console.print(f"  {'images/s':>10}{'range':>20}{'smallvision is':>18}", style="bold")
    for name, speed in speeds.items():
        spread = f"{speed.low:,.0f} to {speed.high:,.0f}"
        ratio = "" if name == "smallvision" else f"{speed.ours_is:.2f} times"
        console.print(f"  {speed.images_per_second:>10,.0f}{spread:>20}{ratio:>18}  {name}")


def print_products(console: Console, products: dict[str, Products]) -> None:
    console.print()
    console.print("  matrix products, GFLOP/s; n x n by n x n, n =", style="bold")
    console.print("  " + " " * 14 + "".join(f"{size:>9,}" for size in measure.SIZES))
    for device, of in products.items():
        for dtype, rates in of.gflops.items():
            console.print(f"  {f'{device} {dtype}':<14}" + "".join(f"{rate:>9,.0f}" for rate in rates.values()))
    for device, of in products.items():
        console.print(f"  {device}: 1,000,000 elements times 1,000,000 elements in {of.elementwise_ms:.3f} ms")
        console.print(f"  {device}: 512 x 1024 by 1024 x 512 in {of.oblong_ms:.3f} ms")
        if of.large_s is not None:
            console.print(f"  {device}: 10,000 x 10,000 squared in {of.large_s:.2f} s")


def plot(speeds: dict[str, Speed], products: dict[str, Products], title: str, file: Path) -> None:
    """How fast each contender trains, and how fast matrix products are by their size, as PNG."""
    figure = Figure(figsize=(11, 0.42 * len(speeds) + 2.2), dpi=120, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=12)
    bars, lines = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [f"smallvision, {name.strip()}" if name.startswith(" ") else name for name in speeds]
    medians, lows, highs = np.transpose([(one.images_per_second, one.low, one.high) for one in speeds.values()])
    colors = [OURS if name.startswith("smallvision") else OTHERS for name in names]
    errors = {"xerr": (medians - lows, highs - medians), "error_kw": {"elinewidth": 1, "ecolor": "#333333"}}
    bars.barh(names, medians, color=colors, **errors)
    for row, speed in enumerate(speeds.values()):
        ratio = f"  ours is {speed.ours_is:.2f} times this" if row else ""
        text = f" {speed.images_per_second:,.0f}{ratio}"
        bars.text(speed.high + 0.01 * max(highs), row, text, va="center", fontsize=8)
    bars.invert_yaxis()
    bars.set_xlim(0, 1.45 * max(highs))
    bars.set_title("images per second: median and range", fontsize=10, loc="left")
    for device, of in products.items():
        for dtype, rates in of.gflops.items():
            lines.plot([*rates], [*rates.values()], marker="o", label=f"{device} {dtype}")
    lines.set(xscale="log", yscale="log")
    lines.set_xlabel("n", fontsize=9)
    lines.set_title("GFLOP/s of n x n by n x n matrix products", fontsize=10, loc="left")
    lines.legend(fontsize=8, frameon=False)
    for axes in (bars, lines):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    figure.savefig(file)
