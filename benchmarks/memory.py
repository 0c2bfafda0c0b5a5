"""The most memory that a run of model=cifar10 takes, and the classic pipeline: each in a process of its own, in turn.

    python benchmarks/memory.py

The classic pipeline is what templates do: torchvision's dataset with transforms of each image, DataLoaders, and a
LightningModule that logs by torchmetrics, in float32. Both train, validate, test and keep a checkpoint; ours draws its
report as well. Needs Linux and CIFAR-10 (``SMALLVISION_DATA``).
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

BATCHES = 20  # training batches; all validation and test images follow


def classic(folder: str) -> None:
    """The pipeline, in this process."""
    import lightning.pytorch as pl
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar
    from lightning.pytorch.loggers import CSVLogger
    from torch import Tensor, nn
    from torch.nn import functional as F
    from torch.utils.data import DataLoader, Subset
    from torchmetrics.classification import MulticlassAccuracy
    from torchvision import datasets, transforms

    from smallvision.data.standard import cifar10
    from smallvision.models.cifar import CifarNet

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = CifarNet(3, (32, 32), 10)
            self.accuracy = nn.ModuleDict({part: MulticlassAccuracy(10) for part in ("fit", "val", "test")})

        def step(self, batch: list[Tensor], part: str) -> Tensor:
            images, labels = batch
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels)
            self.accuracy[part](logits, labels)
            self.log_dict({f"{part}/loss": loss, f"{part}/acc": self.accuracy[part]}, prog_bar=True)
            return loss

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return self.step(batch, "fit")

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.step(batch, "val")

        def test_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.step(batch, "test")

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    images = cifar10(os.environ.get("SMALLVISION_DATA", "data"), offline="error")
    normalise = [transforms.ToTensor(), transforms.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))]
    augment = [transforms.RandomCrop(32, 4, padding_mode="reflect"), transforms.RandomHorizontalFlip()]

    def dataset(pixels: Tensor, labels: Tensor, changes: list[object]) -> datasets.CIFAR10:
        made = datasets.CIFAR10.__new__(datasets.CIFAR10)  # its __init__ reads the files of a download
        made.data, made.targets = pixels.permute(0, 2, 3, 1).numpy(), labels.tolist()
        made.transform, made.target_transform = transforms.Compose(changes), None
        return made

    order = torch.randperm(50_000).tolist()
    fit = dataset(images.train_images, images.train_labels, [*augment, *normalise])
    val = dataset(images.train_images, images.train_labels, normalise)
    test = dataset(images.test_images, images.test_labels, normalise)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_train_batches=BATCHES,
        logger=CSVLogger(folder),
        callbacks=[RichProgressBar(), ModelCheckpoint(folder, monitor="val/acc", mode="max", save_last=True)],
        enable_model_summary=False,
    )
    module = Module()
    trainer.fit(module, DataLoader(Subset(fit, order[5000:]), 128, True), DataLoader(Subset(val, order[:5000]), 128))
    trainer.test(module, DataLoader(test, 128))


def peak(command: list[str]) -> float:
    """MB of resident memory, pages of files included."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"exit code {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    return usage.ru_maxrss * 1024 / 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each kind")
    parser.add_argument("--classic", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.classic:
        classic(arguments.classic)
        return
    peaks: dict[str, list[float]] = {"smallvision": [], "classic": []}
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory() as folder:
            run = ["model=cifar10", "device=cpu", "trainer.max_epochs=1", f"trainer.limit_train_batches={BATCHES}"]
            peaks["smallvision"].append(
                peak([sys.executable, "-m", "smallvision", *run, f"hydra.run.dir={folder}/run"])
            )
            peaks["classic"].append(peak([sys.executable, __file__, "--classic", folder]))
    for name, found in peaks.items():
        print(f"{name:12}{statistics.median(found):8,.0f} MB  ({min(found):,.0f} to {max(found):,.0f})")
    ratios = [ours / other for ours, other in zip(*peaks.values(), strict=True)]
    print(f"ours / classic, median of {len(ratios)}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
