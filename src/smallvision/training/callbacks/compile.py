"""torch.compile as a choice: the network becomes code for this machine before the first step."""

import time

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn import functional as F

from smallvision.core.errors import UserError
from smallvision.data.loader import BatchLoader
from smallvision.training.classifier import Classifier


class Compiler(Callback):
    """Compiles the network for each size of a training batch; ``seconds`` is what that took.

    Validation and test, which would have to be compiled apart and are seldom, run as without it. What the
    compiled steps leave in the network (batch norm's running statistics) is put back.
    """

    seconds: float | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        assert isinstance(trainer.train_dataloader, BatchLoader)
        started = time.perf_counter()
        network = pl_module.predictor.network
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        try:
            network.compile(dynamic=False)
            for size in trainer.train_dataloader.sizes:
                shape = (size, *trainer.train_dataloader.images.shape[1:])
                images = torch.zeros(shape, dtype=torch.uint8, device=pl_module.device)
                with trainer.precision_plugin.train_step_context():
                    loss = F.cross_entropy(
                        pl_module(images), torch.zeros(size, dtype=torch.long, device=pl_module.device)
                    )
                loss.backward()
        except Exception as error:  # compilers fail in many ways
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(f"device.compile=true: torch cannot compile this network here ({reason[:200]})") from error
        network.zero_grad()
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])
        if pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)
        self.seconds = time.perf_counter() - started

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("force_eager")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        torch.compiler.set_stance("default")

    on_test_start, on_test_end = on_validation_start, on_validation_end
