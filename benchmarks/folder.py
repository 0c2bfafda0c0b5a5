"""What data=folder costs with many images: the first start, the second, batches from the map and from memory, memory.

    python benchmarks/folder.py 10000                   that many JPEGs of 160 x 120, at data.size=64
    python benchmarks/folder.py 1000000 --sparse        no JPEGs: the loader alone, on a sparse file of as many pixels

The images are made first, in a temporary folder (--in FOLDER: there), which is removed at the end. Starts are those of
``smallvision.data.folder.folder`` and of the data module, in a new process each; the page cache is warm.
"""

import argparse
import json
import math
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

SIZE, CLASSES, BATCH, ROUNDS, SECONDS = 64, 10, 64, 5, 3.0


def paint(root: Path, number: int) -> None:
    pixels = np.random.default_rng(number).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    file = root / f"class{number % CLASSES}" / f"{number}.jpg"
    Image.fromarray(pixels).resize((160, 120)).save(file, quality=85)


def make(root: Path, count: int) -> None:
    for number in range(CLASSES):
        (root / f"class{number}").mkdir(parents=True)
    with ProcessPoolExecutor() as pool:
        for _ in pool.map(partial(paint, root), range(count), chunksize=200):
            pass


def peak() -> int:
    """The most memory that this process has had, in MB; mapped pages count. (ru_maxrss would be its parent's, too.)"""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024 // 10**6


def start(root: Path, arrays: Path | None) -> dict[str, float]:
    """Seconds to the first batch, torch imported before; with ``arrays`` of that npz file instead."""
    import torch

    from smallvision.data.arrays import arrays as load_arrays
    from smallvision.data.folder import folder
    from smallvision.data.module import ImageDataModule

    torch.set_num_threads(2)
    before, imported = time.perf_counter(), peak()
    dataset = load_arrays(str(arrays)) if arrays else folder(str(root / "images"), SIZE, data_dir=str(root))
    data = ImageDataModule(dataset, val_size=0, batch_size=BATCH, eval_batch_size=1000, seed=0)
    loader = data.train_dataloader()
    assert dataset.fingerprint
    next(iter(loader))
    return {"seconds": time.perf_counter() - before, "imported": imported, "peak": peak()}


def rate(loader: object, seconds: float) -> float:
    """Images a second of its batches, over that time."""
    images, begun = 0, time.perf_counter()
    while True:
        for batch, _ in loader:  # type: ignore[attr-defined]
            images += len(batch)
            if (passed := time.perf_counter() - begun) > seconds:
                return images / passed


def batches(root: Path, sparse: int) -> dict[str, float]:
    """The rates from the map and, where it takes less than 4 GB, from memory, in turn; the peak is that of the map."""
    import torch

    from smallvision.data.folder import folder
    from smallvision.data.loader import BatchLoader
    from smallvision.data.memory_map import map_file

    torch.set_num_threads(2)
    if sparse:
        with (root / "sparse").open("wb") as file:
            file.truncate(sparse * 3 * SIZE**2)
        images = torch.from_numpy(map_file(root / "sparse")).view(-1, 3, SIZE, SIZE)
    else:
        images = folder(str(root / "images"), SIZE, data_dir=str(root)).train_images
    with (root / "sparse" if sparse else next((root / "cache").glob("*.images"))).open("rb") as file:
        while file.read(2**24):  # into the page cache, at the speed of the disk
            pass
    labels, indices = torch.zeros(len(images), dtype=torch.long), torch.arange(len(images))

    def loader(source: torch.Tensor) -> BatchLoader:
        return BatchLoader(source, labels, indices, batch_size=BATCH, training=True, shuffle=True)

    mapped = loader(images)
    rate(mapped, SECONDS)
    found = {"peak": peak(), "map": 0.0, "memory": math.nan}
    in_memory = loader(images.clone()) if images.nbytes < 4 * 10**9 else None
    rates: dict[str, list[float]] = {"map": [], "memory": []}
    for _ in range(ROUNDS):
        rates["map"].append(rate(mapped, SECONDS))
        if in_memory is not None:
            rates["memory"].append(rate(in_memory, SECONDS))
    found["map"] = statistics.median(rates["map"])
    if in_memory is not None:
        found["memory"] = statistics.median(rates["memory"])
    return found


def measure(part: str, root: Path, *more: str) -> dict[str, float]:
    """One part in a process of its own, whose last line is its result."""
    done = subprocess.run(
        [sys.executable, __file__, "0", "--part", part, "--in", str(root), *more], stdout=subprocess.PIPE, text=True,
        check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_npz(root: Path) -> Path:
    """The same images as the cache's, as arrays."""
    from smallvision.data.folder import folder

    data = folder(str(root / "images"), SIZE, data_dir=str(root))
    parts = {"x_train": data.train_images, "x_test": data.test_images}
    last = {key: part.permute(0, 2, 3, 1).numpy() for key, part in parts.items()}
    np.savez(root / "same.npz", **last, y_train=data.train_labels.numpy(), y_test=data.test_labels.numpy())
    return root / "same.npz"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("count", type=int)
    parser.add_argument("--sparse", action="store_true")
    parser.add_argument("--in", dest="root", type=Path, default=None)
    parser.add_argument("--part", choices=["start", "arrays", "batches"], help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, default=0, help=argparse.SUPPRESS)
    typed = parser.parse_args()
    if typed.part == "batches":
        print(json.dumps(batches(typed.root, typed.images)))
        return
    if typed.part is not None:
        print(json.dumps(start(typed.root, typed.root / "same.npz" if typed.part == "arrays" else None)))
        return
    with tempfile.TemporaryDirectory(dir=typed.root) as folder_name:
        root = Path(folder_name)
        if not typed.sparse:
            make(root / "images", typed.count)
            for name in ("first start", "second start"):
                found = measure("start", root)
                more = f"peak {found['peak']:,.0f} MB, {found['imported']:,.0f} of them after the imports"
                print(f"{name:<14}{found['seconds']:8.2f} s   {more}", flush=True)
            write_npz(root)
            found = measure("arrays", root)
            print(f"{'as arrays':<14}{found['seconds']:8.2f} s   peak {found['peak']:,.0f} MB", flush=True)
            (root / "same.npz").unlink()
        found = measure("batches", root, *(["--images", str(typed.count)] if typed.sparse else []))
        print(f"{'from the map':<14}{found['map']:8,.0f} images/s   peak {found['peak']:,.0f} MB")
        if not math.isnan(found["memory"]):
            ratio = found["map"] / found["memory"]
            print(f"{'from memory':<14}{found['memory']:8,.0f} images/s   the map gives {ratio:.2f} of it")


if __name__ == "__main__":
    main()
