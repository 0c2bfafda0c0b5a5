"""A LightningModule of one's own: a convolutional autoencoder, judged by the peak signal-to-noise ratio (PSNR).

python train.py use=examples.autoencoder module._target_=examples.autoencoder.Autoencoder module.width=16 module.monitor=val/psnr module.mode=max data=fashion_mnist
"""  # noqa: E501

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Batch = tuple[Tensor, Tensor]  # images uint8 N x channels x H x W, as the data module augments them, and their labels


class Autoencoder(pl.LightningModule):
    """Learns to give back its input through ``code`` numbers.

    ``channels`` and ``size`` (height, width, which 4 must divide) come from the data; ``width``: channels of the first
    convolution; ``noise``: standard deviation of what is added to training images, as a fraction of white.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], width: int = 16, code: int = 32, noise: float = 0.1
    ) -> None:
        super().__init__()
        self.noise = noise
        height, wide, inner = size[0] // 4, size[1] // 4, 2 * width
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 4, stride=2, padding=1), nn.GELU(),
            nn.Conv2d(width, inner, 4, stride=2, padding=1), nn.GELU(),
            nn.Flatten(), nn.Linear(inner * height * wide, code),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(code, inner * height * wide), nn.Unflatten(1, (inner, height, wide)), nn.GELU(),
            nn.ConvTranspose2d(inner, width, 4, stride=2, padding=1), nn.GELU(),
            nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        clean = batch[0] / 255
        loss = F.mse_loss(self.decoder(self.encoder(clean + self.noise * torch.randn_like(clean))), clean)
        self.log("train/loss", loss, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def evaluate(self, batch: Batch, part: str) -> None:
        clean = batch[0] / 255
        errors = (self.decoder(self.encoder(clean)) - clean).square().mean((1, 2, 3))
        self.log_dict({f"{part}/loss": errors.mean(), f"{part}/psnr": (-10 * errors.log10()).mean()}, sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())
