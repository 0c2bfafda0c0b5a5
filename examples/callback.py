"""A callback of one's own: the norm of the gradient, a line a step.

python train.py use=examples.callback +callbacks.norms._target_=examples.callback.GradientNorms data=digits
"""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim import Optimizer


class GradientNorms(Callback):
    """Writes ``file`` into the run directory: step and norm of the gradient over all parameters.

    ``every``: steps from one line to the next.
    """

    def __init__(self, file: str = "gradient_norms.csv", every: int = 10) -> None:
        self.file, self.every = file, every

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if trainer.global_step % self.every == 0:
            gradients = [one.grad.norm() for one in pl_module.parameters() if one.grad is not None]
            with (Path(trainer.default_root_dir) / self.file).open("a") as file:
                file.write(f"{trainer.global_step},{torch.stack(gradients).norm():.6g}\n")
