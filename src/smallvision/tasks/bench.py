"""Where the time goes, on this machine: our run against others, and the hardware's own limit."""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from smallvision.bench.classic import classic
from smallvision.bench.clock import Contender
from smallvision.bench.picture import draw
from smallvision.bench.pipelines import ours, raw_loop
from smallvision.bench.products import devices, elementwise, large, matrix_products, oblong
from smallvision.overrides import Config
from smallvision.runs import Run
from smallvision.screen import Screen
from smallvision.tasks import common
from smallvision.training.setup import Setup, make_data, make_setup


def run(config: Config, run: Run) -> dict[str, Any]:
    """Time every contender in turn, ``bench.rounds`` times; medians and ratios go to results.json."""
    screen = Screen()
    setup = make_setup(config, make_data(config))
    run.describe(config, setup.device.hardware)
    common.summary(screen, config, setup, run, f"timing {config['model']['name']}")
    choice = config["bench"]
    rates = time_in_turn(screen, config, setup, run, choice["rounds"], choice["seconds"])
    speed = compare(rates)
    screen.say()
    screen.say(f"  {'images/s':>10}{'range':>20}{'smallvision is':>18}", style="bold")
    for name, row in speed.items():
        spread = f"{row['low']:,.0f} to {row['high']:,.0f}"
        times = "" if name == "smallvision" else f"{row['ours_is']:.2f} times"
        screen.say(f"  {row['images_per_second']:>10,.0f}{spread:>20}{times:>18}  {name}")
    products = product_tables(screen, choice["large"])
    share = peak_share(setup, speed["smallvision"]["images_per_second"], products)
    screen.say()
    screen.say(
        f"  the network's arithmetic runs at {share['gflops']:,.0f} GFLOP/s, {share['share']:.0%} of the"
        f" fastest matrix product here in {share['dtype']}"
    )
    figures = common.results(config, setup, run, "completed")
    figures["images_per_second"] = speed["smallvision"]["images_per_second"]
    figures["seconds"]["total"] = run.seconds
    figures["bench"] = {"speed": speed, "products": products, "peak": share}
    run.results(figures)
    picture = run.directory / "bench.png"
    title = f"{config['model']['name']} on {setup.data.data.name}, {setup.device}"
    draw(speed, products, title, picture)
    screen.say()
    screen.pairs({"picture": str(picture)})
    return figures


def contenders(config: Config, setup: Setup, run_dir: Path) -> Iterator[Contender]:
    """Our run, the same with each of the device's choices turned off, and what others do."""
    yield ours("smallvision", config, setup.data, run_dir)
    off: dict[str, tuple[str, dict[str, Any], bool]] = {
        "float32": ("device", {"precision": "32"}, setup.device.precision != "32"),
        "contiguous": ("device", {"memory_format": "contiguous"}, setup.device.channels_last),
        "not compiled": ("device", {"compile": False}, setup.device.compile),
        "optimizer not fused": ("optimizer", {"fused": False}, "fused" in config["optimizer"]),
    }
    for words, (section, change, on) in off.items():
        if on:
            other = {**config, section: {**config[section], **change}}
            yield ours(f"  {words}", other, setup.data, run_dir)
    if setup.device.channels_last or setup.device.precision != "32":
        yield raw_loop("raw loop, our format and precision", config, setup, like_ours=True)
    yield raw_loop("raw loop, float32, default format", config, setup, like_ours=False)
    yield classic("classic pipeline", config, setup)


def time_in_turn(
    screen: Screen, config: Config, setup: Setup, run: Run, rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Images per second of each contender, A B C, A B C, ..., so that a machine's moods meet all alike."""
    field = list(contenders(config, setup, run.directory))
    rates: dict[str, list[float]] = {contender.name: [] for contender in field}
    screen.say()
    for number in range(rounds):
        for contender in field:
            rates[contender.name].append(contender.measure(seconds))
        screen.say(f"  round {number + 1} of {rounds}")
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


def product_tables(screen: Screen, with_large: bool) -> dict[str, Any]:
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
    screen.say()
    screen.say("  matrix products, GFLOP/s; n x n by n x n, n =", style="bold")
    screen.say("  " + " " * 14 + "".join(f"{size:>9,}" for size in sizes))
    for name, table in tables.items():
        if isinstance(table, dict):
            screen.say(f"  {name:<14}" + "".join(f"{rate:>9,.0f}" for rate in table.values()))
    for device in devices():
        taken = tables[f"{device.type} 1,000,000 products, ms"]
        screen.say(f"  {device.type}: 1,000,000 elements times 1,000,000 elements in {taken:.3f} ms")
        taken = tables[f"{device.type} 512 x 1024 by 1024 x 512, ms"]
        screen.say(f"  {device.type}: 512 x 1024 by 1024 x 512 in {taken:.3f} ms")
        if with_large:
            taken = tables[f"{device.type} 10,000 x 10,000 squared, s"]
            screen.say(f"  {device.type}: 10,000 x 10,000 squared in {taken:.2f} s")
    return tables


def peak_share(setup: Setup, images_per_second: float, products: dict[str, Any]) -> dict[str, Any]:
    """What the network computes per second (backward counts twice forward), and of what it could."""
    dtype = "bfloat16" if setup.device.precision == "bf16-mixed" else "float32"
    gflops = 3 * setup.flops * images_per_second / 1e9
    peak = max(products[f"{setup.device.kind} {dtype}"].values())
    return {"gflops": gflops, "peak_gflops": peak, "share": gflops / peak, "dtype": dtype}
