"""Where the time goes, on this machine: our run against others, and the hardware's own limit."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from smallvision.config.schema import Config
from smallvision.core.console import Console
from smallvision.core.run_dir import RunDir
from smallvision.tasks import common
from smallvision.tasks.bench.classic import classic
from smallvision.tasks.bench.clock import Contender
from smallvision.tasks.bench.picture import draw
from smallvision.tasks.bench.pipelines import ours, raw_loop
from smallvision.tasks.bench.products import devices, elementwise, large, matrix_products, oblong
from smallvision.training.factory import Experiment, make_data, make_experiment


def run(config: Config, run: RunDir) -> dict[str, Any]:
    """Time every contender in turn, ``bench.rounds`` times; medians and ratios go to results.json."""
    console = Console()
    experiment = make_experiment(config, make_data(config))
    run.describe(config, experiment.device.hardware)
    common.summary(console, config, experiment, run, f"timing {config['model']['name']}")
    choice = config["bench"]
    rates = time_in_turn(console, config, experiment, run, choice["rounds"], choice["seconds"])
    speed = compare(rates)
    console.print()
    console.print(f"  {'images/s':>10}{'range':>20}{'smallvision is':>18}", style="bold")
    for name, row in speed.items():
        spread = f"{row['low']:,.0f} to {row['high']:,.0f}"
        times = "" if name == "smallvision" else f"{row['ours_is']:.2f} times"
        console.print(f"  {row['images_per_second']:>10,.0f}{spread:>20}{times:>18}  {name}")
    products = product_tables(console, choice["large"])
    share = peak_share(experiment, speed["smallvision"]["images_per_second"], products)
    console.print()
    console.print(
        f"  the network's arithmetic runs at {share['gflops']:,.0f} GFLOP/s, {share['share']:.0%} of the"
        f" fastest matrix product here in {share['dtype']}"
    )
    figures = common.results(config, experiment, run, "completed")
    figures["images_per_second"] = speed["smallvision"]["images_per_second"]
    figures["seconds"]["total"] = run.seconds
    figures["bench"] = {"speed": speed, "products": products, "peak": share}
    run.results(figures)
    picture = run.directory / "bench.png"
    title = f"{config['model']['name']} on {experiment.data.dataset.name}, {experiment.device}"
    draw(speed, products, title, picture)
    console.print()
    console.fields({"picture": str(picture)})
    return figures


def contenders(config: Config, experiment: Experiment, run_dir: Path) -> Iterator[Contender]:
    """Our run, the same with each of the device's choices turned off, and what others do."""
    yield ours("smallvision", config, experiment.data, run_dir)
    off: dict[str, tuple[str, dict[str, Any], bool]] = {
        "float32": ("device", {"precision": "32"}, experiment.device.precision != "32"),
        "contiguous": ("device", {"memory_format": "contiguous"}, experiment.device.channels_last),
        "not compiled": ("device", {"compile": False}, experiment.device.compile),
        "optimizer not fused": ("optimizer", {"fused": False}, "fused" in config["optimizer"]),
    }
    for words, (section, change, on) in off.items():
        if on:
            other = {**config, section: {**config[section], **change}}
            yield ours(f"  {words}", other, experiment.data, run_dir)
    if experiment.device.channels_last or experiment.device.precision != "32":
        yield raw_loop("raw loop, our format and precision", config, experiment, like_ours=True)
    yield raw_loop("raw loop, float32, default format", config, experiment, like_ours=False)
    yield classic("classic pipeline", config, experiment)


def time_in_turn(
    console: Console, config: Config, experiment: Experiment, run: RunDir, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Images per second of each contender, A B C, A B C, ..., so that a machine's moods meet all alike."""
    field = list(contenders(config, experiment, run.directory))
    rates: dict[str, list[float]] = {contender.name: [] for contender in field}
    console.print()
    for number in range(rounds):
        for contender in field:
            rates[contender.name].append(contender.measure(seconds))
        console.print(f"  round {number + 1} of {rounds}")
    return rates


def compare(rates: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Median and range of each, and the median over rounds of our rate by its rate."""
    own = next(iter(rates.values()))
    return {
        name: {
            "images_per_second": statistics.median(values),
            "low": min(values),
            "high": max(values),
            "ours_is": statistics.median(a / b for a, b in zip(own, values, strict=True)),
            "rounds": values,
        }
        for name, values in rates.items()
    }


def product_tables(console: Console, with_large: bool) -> dict[str, Any]:
    """Matrix products of growing size on each device in each precision, printed and returned."""
    tables: dict[str, Any] = {}
    for device in devices():
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{device.type} {str(dtype).removeprefix('torch.')}"
            tables[name] = matrix_products(device, dtype)
        tables[f"{device.type} 1,000,000 products, ms"] = elementwise(device)
        tables[f"{device.type} 512 x 1024 by 1024 x 512, ms"] = oblong(device)
        if with_large:
            tables[f"{device.type} 10,000 x 10,000 squared, s"] = large(device)
    sizes = next(table for table in tables.values() if isinstance(table, dict))
    console.print()
    console.print("  matrix products, GFLOP/s; n x n by n x n, n =", style="bold")
    console.print("  " + " " * 14 + "".join(f"{size:>9,}" for size in sizes))
    for name, table in tables.items():
        if isinstance(table, dict):
            console.print(f"  {name:<14}" + "".join(f"{rate:>9,.0f}" for rate in table.values()))
    for device in devices():
        taken = tables[f"{device.type} 1,000,000 products, ms"]
        console.print(f"  {device.type}: 1,000,000 elements times 1,000,000 elements in {taken:.3f} ms")
        taken = tables[f"{device.type} 512 x 1024 by 1024 x 512, ms"]
        console.print(f"  {device.type}: 512 x 1024 by 1024 x 512 in {taken:.3f} ms")
        if with_large:
            taken = tables[f"{device.type} 10,000 x 10,000 squared, s"]
            console.print(f"  {device.type}: 10,000 x 10,000 squared in {taken:.2f} s")
    return tables


def peak_share(experiment: Experiment, images_per_second: float, products: dict[str, Any]) -> dict[str, Any]:
    """What the network computes per second (backward counts twice forward), and of what it could."""
    dtype = "bfloat16" if experiment.device.precision == "bf16-mixed" else "float32"
    gflops = 3 * experiment.flops * images_per_second / 1e9
    peak = max(products[f"{experiment.device.kind} {dtype}"].values())
    return {"gflops": gflops, "peak_gflops": peak, "share": gflops / peak, "dtype": dtype}
