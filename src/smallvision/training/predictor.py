"""The model that every verb uses: uint8 images in, probabilities of the classes out."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.training import device as devices
from smallvision.training.checkpoint import Checkpoint
from smallvision.training.layers import Normalise, TestTimeAugmentation, Whiten
from smallvision.training.model_spec import ModelSpec, shape_str

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class Predictor(nn.Module):
    """Normalise, whiten, network, mean of the logits over test-time views, softmax.

    Images are uint8, N x C x H x W, on the predictor's device; probabilities are float32, N x classes. Training
    uses :meth:`logits`; validation and test :meth:`mean_logits`; task=predict and task=serve :meth:`probabilities`;
    exported files hold :meth:`forward`.
    """

    checkpoint: Checkpoint
    device: devices.Device  # what :meth:`use` was given

    def __init__(self, spec: ModelSpec, network: nn.Module) -> None:
        super().__init__()
        self.spec, self.network = spec, network
        self.normalise = Normalise(spec.mean, spec.std)
        self.whiten = Whiten(spec.shape[0], spec.whiten) if spec.whiten else nn.Identity()
        self.tta = TestTimeAugmentation(**spec.tta)

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, config: Config) -> "Predictor":
        """The trained model, for inference on ``config.device`` with the views of ``config.tta``.

        Raises UserError where the weights do not fit the checkpoint's own config.
        """
        spec = replace(checkpoint.spec, tta=config.tta.to_dict())
        weights = checkpoint.state_dict
        predictor = cls(spec, spec.make_network_within(tuple(one.shape) for one in weights.values()))
        device = devices.choose(config.device, predictor.flops())
        predictor.load_weights(checkpoint)
        predictor.checkpoint = checkpoint
        return predictor.use(device).to(device.kind).eval().requires_grad_(False)

    def use(self, device: devices.Device) -> "Predictor":
        """Take the layout and precision of ``device``; the tensors stay where they are."""
        self.device = device
        if device.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.normalise.layout = torch.channels_last
        return self

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Raises UserError where they do not fit."""
        try:
            self.load_state_dict(checkpoint.state_dict)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{checkpoint.path}: its weights do not fit its own config ({reason})") from None

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities."""
        return self.mean_logits(images).softmax(1)

    def logits(self, images: Tensor) -> Tensor:
        """Of the images alone, N x classes."""
        return self.classify(self.normalise(images))

    def mean_logits(self, images: Tensor) -> Tensor:
        """The mean over the test-time views, float32, N x classes."""
        return self.tta(self.normalise(images), self.classify)

    def classify(self, normalised: Tensor) -> Tensor:
        """Logits of normalised images."""
        return self.network(self.whiten(normalised))

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Of images on any device, computed in the chosen device's precision; on the CPU."""
        with self.autocast():
            logits = self.mean_logits(images.to(self.normalise.scale.device))
        return logits.float().softmax(1).cpu()

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of the device."""
        half = HALF.get(self.device.precision)
        return torch.autocast(self.device.kind, half) if half else nullcontext()

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    def flops(self) -> int:
        """Floating-point operations of one image, forward. Raises UserError where the network cannot take it."""
        training = self.training
        counter = FlopCounterMode(display=False)
        try:
            with counter, torch.no_grad():
                self.eval().classify(torch.zeros(1, *self.spec.shape))
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"model: cannot take images of {shape_str(self.spec.shape)}: {reason}") from None
        finally:
            self.train(training)
        return counter.get_total_flops()
