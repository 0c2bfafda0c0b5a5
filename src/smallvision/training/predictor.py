"""The model that every verb uses: uint8 images in, probabilities of the classes out."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from smallvision.config.schema import Config
from smallvision.core.errors import UserError
from smallvision.models.pretrained import PretrainedNetwork
from smallvision.training import device as devices
from smallvision.training.checkpoint import Checkpoint, load_weights
from smallvision.training.model_spec import ModelSpec, shape_str

HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
SMALLEST_VARIANCE = 5e-4  # below it, a direction is not blown up to 1: it is mostly noise


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
        self.tta = TestTimeAugmentation(bool(spec.tta.get("flip")), spec.tta.get("shift", 0))

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint, config: Config) -> "Predictor":
        """The trained model, for inference on ``config.device`` with the views of ``config.tta``.

        Raises UserError where the weights do not fit the checkpoint's own config.
        """
        predictor = cls.with_weights(checkpoint, config)
        predictor.checkpoint = checkpoint
        device = devices.choose(config.device, predictor.flops())
        return predictor.use(device).to(device.kind).eval().requires_grad_(False)

    @classmethod
    def with_weights(cls, checkpoint: Checkpoint, config: Config) -> "Predictor":
        """The model of ``checkpoint`` on the CPU, with the views of ``config.tta``.

        Raises UserError where it is of a LightningModule of the user's own.
        """
        if config.module.is_own:
            raise UserError(f"{checkpoint.path}: of {config.module.target}, which has no classes to predict: task=test")
        spec = replace(checkpoint.spec, tta=config.tta.to_dict())
        predictor = cls(spec, spec.make_network_within(weight.shape for weight in checkpoint.state_dict.values()))
        if any(weight.dtype == torch.float64 for weight in checkpoint.state_dict.values()):
            predictor.to(torch.float64)
        predictor.load_weights(checkpoint)
        return predictor

    def use(self, device: devices.Device) -> "Predictor":
        """Take the layout and precision of ``device``; the tensors stay where they are."""
        self.device = device
        self.to(torch.float64 if device.precision == "64-true" else torch.float32)
        if device.channels_last:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.normalise.layout = torch.channels_last
        return self

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Raises UserError where they do not fit."""
        load_weights(self, checkpoint.state_dict, checkpoint.path)

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

    def autocast(self) -> AbstractContextManager[object]:
        """The precision of the device."""
        half = HALF.get(self.device.precision)
        return torch.autocast(self.device.kind, half) if half else nullcontext()

    @property
    def parameter_count(self) -> int:
        return sum(parameter.numel() for parameter in self.network.parameters())

    def flops(self) -> int:
        """Floating-point operations of one image, forward. Raises UserError where the network cannot take it."""
        return sum(layer.flops for layer in self.layers())

    def layers(self, shape: tuple[int, int, int] | None = None) -> list["Layer"]:
        """Those without layers of their own, and last what is outside of any. Raises UserError as :meth:`flops`.

        ``shape``: of the image, where it is not the one that the network was made for.
        """
        shape = shape or self.spec.shape
        training = self.training
        counter = FlopCounterMode(display=False)
        try:
            with counter, torch.no_grad():
                self.eval().classify(self.normalise.scale.new_zeros(1, *shape))
        except (RuntimeError, ValueError, AssertionError) as error:
            reason = (str(error).splitlines() or ["too small"])[0]
            if isinstance(self.network, PretrainedNetwork):
                reason += "; another size: model.image_size=224"
            raise UserError(f"model: cannot take images of {shape_str(shape)}: {reason}") from None
        finally:
            self.train(training)
        counts, root, found = counter.get_flop_counts(), type(self.network).__name__, []
        for name, layer in self.network.named_modules():
            if not any(True for _ in layer.children()):
                flops = sum(counts.get(f"{root}.{name}" if name else root, {}).values())
                parameters = sum(parameter.numel() for parameter in layer.parameters())
                found.append(Layer(name, type(layer).__name__, parameters, flops))
        flops = counter.get_total_flops() - sum(layer.flops for layer in found)
        parameters = self.parameter_count - sum(layer.parameters for layer in found)
        return [*found, *([Layer("others", "", parameters, flops)] if flops or parameters else [])]


class Layer(NamedTuple):
    """``kind``: its class; ``flops``: floating-point operations for one image, forward."""

    name: str
    kind: str
    parameters: int
    flops: int


# Its layers ---------------------------------------------------------------------------------------------


class Normalise(nn.Module):
    """uint8 images in [0, 255] to floats of mean 0 and deviation 1 per channel, in the wanted layout."""

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], channels_last: bool = False) -> None:
        super().__init__()
        deviation = torch.tensor(std).view(1, -1, 1, 1)
        self.register_buffer("scale", 1 / (255 * deviation), persistent=False)
        self.register_buffer("offset", -torch.tensor(mean).view(1, -1, 1, 1) / deviation, persistent=False)
        self.layout = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, images: Tensor) -> Tensor:
        floats = images.to(self.scale.dtype, memory_format=self.layout)
        return torch.addcmul(self.offset, floats, self.scale)


class Whiten(nn.Module):
    """A fixed first layer: each patch of ``side`` x ``side`` pixels along the principal directions of such
    patches, each direction brought to variance 1, and GELU of that and of its negative.

    N x C x H x W to N x 2 C side^2 x (H - side + 1) x (W - side + 1). Source: K. Jordan, arXiv:2404.00498,
    section 3.2, after tysam-code/hlb-CIFAR10.
    """

    kernel: Tensor

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.side = side
        self.register_buffer("kernel", torch.zeros(2 * channels * side**2, channels, side, side))

    @torch.no_grad()
    def init_whiten(self, images: Tensor) -> None:
        """Learn the directions from ``images``, normalised floats."""
        channels = images.shape[1]
        columns = F.unfold(images, self.side).transpose(1, 2).reshape(-1, channels * self.side**2).double()
        values, vectors = torch.linalg.eigh(columns.T @ columns / len(columns))
        directions = (vectors / (values.clamp_min(0) + SMALLEST_VARIANCE).sqrt()).T.reshape(
            -1, channels, self.side, self.side
        )
        self.kernel.copy_(torch.cat([directions, -directions]))

    def forward(self, images: Tensor) -> Tensor:
        return F.gelu(F.conv2d(images, self.kernel))


class TestTimeAugmentation:
    """Test-time augmentation: the logits of an image as the weighted mean over views of it.

    ``flip``: each view and its mirror image. ``shift``: half of the weight stays in the middle, a quarter
    each goes to the image moved up-left and down-right by that many pixels, the border reflected. Source: K.
    Jordan, arXiv:2404.00498, section 3.5.
    """

    __test__ = False  # no test of pytest's

    def __init__(self, flip: bool = False, shift: int = 0) -> None:
        self.flip, self.shift = flip, shift

    def __len__(self) -> int:
        """Views of each image."""
        return (2 if self.flip else 1) * (3 if self.shift else 1)

    def __call__(self, images: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        """``images``: floats, N x C x H x W; gives ``network``'s logits, N x classes."""
        if not self.shift:
            return self._mirrored(images, network)
        by, (height, width) = self.shift, images.shape[2:]
        padded = F.pad(images, (by,) * 4, mode="reflect")
        moved = [self._mirrored(padded[:, :, at : at + height, at : at + width], network) for at in (0, 2 * by)]
        return self._mirrored(images, network) / 2 + (moved[0] + moved[1]) / 4

    def _mirrored(self, images: Tensor, network: Callable[[Tensor], Tensor]) -> Tensor:
        logits = network(images).float()
        return (logits + network(images.flip(3)).float()) / 2 if self.flip else logits
