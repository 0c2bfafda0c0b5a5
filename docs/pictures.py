"""make pictures: the README's pictures, from real runs. Needs Chromium, and the data sets or a network."""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from smallvision.data.standard import fashion_mnist

HERE = Path(__file__).parent
ROOT = HERE.parent
WIDTH = 900  # of the page's pixels
COLOURS = 128  # of a picture's palette: a tenth of the size, and nobody sees it


def train(folder: Path, *typed: str) -> None:
    """The command line as a user has it, in ``folder``."""
    print("python train.py", *typed, flush=True)
    environment = {**os.environ, "SMALLVISION_DATA": DATA}
    subprocess.run([sys.executable, str(ROOT / "train.py"), *typed], cwd=folder, check=True, env=environment)


def shoot(page: Path, name: str, height: int, dark: bool = False) -> None:
    """The upper ``height`` pixels of a page, as docs/NAME.png."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("make pictures needs Chromium: apt install chromium")
    target = HERE / f"{name}.png"
    look = ["--force-dark-mode"] if dark else []
    subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *look,
         f"--window-size={WIDTH},{height}", f"--screenshot={target}", page.resolve().as_uri()],
        check=True, capture_output=True,
    )  # fmt: skip
    shrink(target)


def shrink(file: Path) -> None:
    Image.open(file).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)


def write_pictures(folder: Path, count: int) -> None:
    """``count`` test images of FashionMNIST as files a class's folder each, larger and dark on light."""
    data = fashion_mnist(data_dir=DATA)
    for number in range(count):
        label = data.classes[int(data.test_labels[number])].replace("/", "_")
        pixels = 255 - data.test_images[number, 0].numpy()
        (folder / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.kron(pixels, np.ones((8, 8), np.uint8))).save(folder / label / f"{number}.png")


def draw_rates(target: Path) -> None:
    """val/acc by learning rate of each optimizer, one panel a data set, from the kept sweeps' leaderboards.

    A sweep that is finished already is not run again.
    """
    figure, panels = plt.subplots(1, len(SWEEPS), figsize=(11, 3.4), layout="constrained")
    for axes, (sweep, title) in zip(panels, SWEEPS.items(), strict=True):
        train(ROOT, "-m", f"experiment={sweep}", "sweep.workers=2")
        with (ROOT / f"outputs/sweeps/{sweep}/leaderboard.csv").open() as file:
            rows = list(csv.DictReader(file))
        for optimizer, (words, colour) in OPTIMIZERS.items():
            found = [row for row in rows if row["optimizer"] == optimizer and row["val/acc"]]
            points = sorted((float(row["optimizer.lr"]), float(row["val/acc"])) for row in found)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, color=colour, label=words)
        best = max(float(row["val/acc"]) for row in rows if row["val/acc"])
        axes.set(xscale="log", title=title, xlabel="learning rate", ylim=(best - 0.25, best + 0.02))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dde2e4", linewidth=0.6)
    panels[0].set_ylabel("val/acc")
    panels[0].legend(frameon=False, loc="lower center")
    figure.savefig(target, dpi=110)
    shrink(target)


SWEEPS = {
    "mnist_rates": "MNIST, 2 epochs",
    "fashion_mnist_rates": "FashionMNIST, 2 epochs",
    "cifar10_rates": "CIFAR-10, 1 epoch",
}
OPTIMIZERS = {
    "gd": ("SGD, plain", "#009e73"),
    "sgd": ("SGD, momentum 0.9", "#0072b2"),
    "adam": ("Adam", "#d55e00"),
}
DATA = str(Path(sys.argv[1]).resolve()) if len(sys.argv) > 1 else str(ROOT / "data")


def main() -> None:
    draw_rates(HERE / "rates.png")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for optimizer in ("sgd", "adam"):
            for seed in (0, 1, 2):
                train(folder, "model=fashion_mnist", f"optimizer={optimizer}", f"seed={seed}",
                      f"hydra.run.dir=runs/{optimizer}{seed}")  # fmt: skip
        train(folder, "task=report", "runs=runs")
        shoot(folder / "runs/adam0/report.html", "report", 1750)
        shoot(folder / "runs/adam0/report.html", "report_dark", 1750, dark=True)
        shoot(folder / "runs/comparison.html", "comparison", 1230)
        write_pictures(folder / "pictures", 20)
        train(folder, "task=predict", "checkpoint=runs/adam0/checkpoints/best.ckpt", "images=pictures",
              "predict.saliency=true", "predict.contact_sheet=12", "hydra.run.dir=predicted")  # fmt: skip
        shutil.copy(folder / "predicted/predictions.png", HERE / "predictions.png")
        shrink(HERE / "predictions.png")
        train(folder, "task=descent", "descent.function=ravine", "descent.compare_with=[sgd,adam@0.5]",
              "hydra.run.dir=walked")  # fmt: skip
        shutil.copy(folder / "walked/descent.png", HERE / "descent.png")
        shrink(HERE / "descent.png")


if __name__ == "__main__":
    main()
