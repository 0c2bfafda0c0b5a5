"""task=bench: where the time goes on this machine, in our run, in other pipelines and in the hardware itself."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smallvision.config.schema import Bench, Config
from smallvision.core.console import Console
from smallvision.core.results import Results
from smallvision.core.run_dir import RunDir
from smallvision.tasks import common
from smallvision.tasks.bench.contenders import (
    ClassicPipeline,
    Contender,
    RawLoop,
    RawLoopLikeOurs,
    SmallVision,
    Speed,
)
from smallvision.tasks.bench.plot import plot
from smallvision.tasks.bench.products import Products, devices, time_products
from smallvision.training.checkpoint import BareWeights, Checkpoint
from smallvision.training.factory import Experiment, make_data, make_experiment


def run(config: Config, run_dir: RunDir | None, checkpoint: Checkpoint | BareWeights | None) -> Results:
    """Time every contender ``bench.rounds`` times, in turn; medians and ratios go to results.json and bench.png."""
    console = Console()
    assert run_dir is not None
    assert config.bench is not None
    experiment = make_experiment(config, make_data(config))
    run_dir.describe(config.to_dict(), experiment.device.hardware)
    common.summary(console, config, experiment, run_dir, f"timing {config.model.name}")
    speeds = time_in_turn(console, config.bench, list(contenders(config, experiment, run_dir.path)))
    print_speeds(console, speeds)
    products = {device.type: time_products(device, config.bench.large) for device in devices()}
    print_products(console, products)
    ours = speeds["smallvision"].images_per_second
    utilization = peak_utilization(experiment, ours, products[experiment.device.kind])
    console.print()
    console.print(
        f"  the network computes at {utilization['gflops']:,.0f} GFLOP/s, {utilization['fraction']:.0%} of the"
        f" fastest matrix product here in {utilization['dtype']}"
    )
    results = common.results(config, experiment, run_dir, "completed")
    results.images_per_second = ours
    results.extra["bench"] = {
        "speed": {name: asdict(speed) for name, speed in speeds.items()},
        "products": {device: asdict(of) for device, of in products.items()},
        "peak": utilization,
    }
    results.write(run_dir)
    file = run_dir.path / "bench.png"
    plot(speeds, products, f"{config.model.name} on {experiment.data.dataset.name}, {experiment.device}", file)
    console.print()
    console.fields({"plot": str(file)})
    return results


def contenders(config: Config, experiment: Experiment, run_dir: Path) -> Iterator[Contender]:
    """Our run, the same with each of the device's choices turned off, and what others do."""
    device = experiment.device
    off: dict[str, tuple[str, dict[str, Any], bool]] = {
        "float32": ("device", {"precision": "32"}, device.precision != "32"),
        "contiguous": ("device", {"memory_format": "contiguous"}, device.channels_last),
        "not compiled": ("device", {"compile": False}, device.compile),
        "optimizer not fused": ("optimizer", {"fused": False}, "fused" in config.optimizer.extra),
    }
    yield SmallVision("smallvision", config, experiment, run_dir)
    for name, (section, change, on) in off.items():
        if on:
            yield SmallVision(f"  {name}", config.updated({section: change}), experiment, run_dir)
    if device.channels_last or device.precision != "32":
        yield RawLoopLikeOurs("raw loop, our format and precision", config, experiment, run_dir)
    yield RawLoop("raw loop, float32, default format", config, experiment, run_dir)
    yield ClassicPipeline("classic pipeline", config, experiment, run_dir)


def time_in_turn(console: Console, options: Bench, everyone: list[Contender]) -> dict[str, Speed]:
    """The speed of each, measured A B C, A B C, ..., so that a slow minute of the machine slows down all alike."""
    rates: dict[str, list[float]] = {contender.name: [] for contender in everyone}
    console.print()
    for number in range(options.rounds):
        for contender in everyone:
            rates[contender.name].append(contender.measure(options.seconds))
        console.print(f"  round {number + 1} of {options.rounds}")
    return {name: Speed.of(own, ours=rates["smallvision"]) for name, own in rates.items()}


def print_speeds(console: Console, speeds: dict[str, Speed]) -> None:
    console.print()
    console.print(f"  {'images/s':>10}{'range':>20}{'smallvision is':>18}", style="bold")
    for name, speed in speeds.items():
        spread = f"{speed.low:,.0f} to {speed.high:,.0f}"
        ratio = "" if name == "smallvision" else f"{speed.ours_is:.2f} times"
        console.print(f"  {speed.images_per_second:>10,.0f}{spread:>20}{ratio:>18}  {name}")


def print_products(console: Console, products: dict[str, Products]) -> None:
    sizes = next(iter(products["cpu"].gflops.values()))
    console.print()
    console.print("  matrix products, GFLOP/s; n x n by n x n, n =", style="bold")
    console.print("  " + " " * 14 + "".join(f"{size:>9,}" for size in sizes))
    for device, of in products.items():
        for dtype, rates in of.gflops.items():
            console.print(f"  {f'{device} {dtype}':<14}" + "".join(f"{rate:>9,.0f}" for rate in rates.values()))
    for device, of in products.items():
        console.print(f"  {device}: 1,000,000 elements times 1,000,000 elements in {of.elementwise_ms:.3f} ms")
        console.print(f"  {device}: 512 x 1024 by 1024 x 512 in {of.oblong_ms:.3f} ms")
        if of.large_s is not None:
            console.print(f"  {device}: 10,000 x 10,000 squared in {of.large_s:.2f} s")


def peak_utilization(experiment: Experiment, images_per_second: float, products: Products) -> dict[str, Any]:
    """What the network computes per second (backward counts twice forward), and as a fraction of the peak here."""
    dtype = "bfloat16" if experiment.device.precision == "bf16-mixed" else "float32"
    gflops = 3 * experiment.flops * images_per_second / 1e9
    peak = max(products.gflops[dtype].values())
    return {"gflops": gflops, "peak_gflops": peak, "fraction": gflops / peak, "dtype": dtype}
