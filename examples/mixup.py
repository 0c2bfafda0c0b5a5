"""A loss of one's own with a callback that belongs to it: mixup (H. Zhang et al., arXiv:1710.09412).

    python train.py use=examples.mixup loss._target_=examples.mixup.MixupLoss \
        +callbacks.mixup._target_=examples.mixup.Mixup +callbacks.mixup.alpha=0.2 data=fashion_mnist
"""

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F


class MixupLoss(nn.Module):
    """Cross-entropy; in training that of both labels of a mixed image, each by its share."""

    def __init__(self) -> None:
        super().__init__()
        self.share: float = 1.0
        self.partners: Tensor | None = None

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels)
        if not self.training or self.partners is None:
            return loss
        return self.share * loss + (1 - self.share) * F.cross_entropy(logits, labels[self.partners])


class Mixup(Callback):
    """Mixes each training image with another of its batch, before the network sees it.

    ``alpha``: the share is drawn from a Beta distribution of that parameter. All random numbers come from torch's
    generator within the step, so a continued run draws the same ones.
    """

    def __init__(self, alpha: float = 0.2) -> None:
        self.alpha = alpha

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.loss: MixupLoss = pl_module.loss
        self.hook = pl_module.predictor.network.register_forward_pre_hook(self.mix)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.hook.remove()

    def mix(self, network: nn.Module, inputs: tuple[Tensor]) -> Tensor | None:
        (images,) = inputs
        if not network.training:
            return None
        self.loss.share = float(torch.distributions.Beta(self.alpha, self.alpha).sample())
        self.loss.partners = torch.randperm(len(images), device=images.device)
        return self.loss.share * images + (1 - self.loss.share) * images[self.loss.partners]
